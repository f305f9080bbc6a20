// What every GPU since Turing has, as functions: a warp reads and writes matrices of shared memory, and its smaller products.
// Semantics: PTX ISA 8.7, "Warp Level Matrix Load, Store and Transpose Instructions", "Matrix Fragments for mma".
//
// tests/native/emulator/cuda/turing.h is the same in plain C++.
#pragma once

#include <cstdint>

namespace aquatint {

__device__ inline uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

// The block's shared memory, as much as it was launched with.
__device__ inline uint8_t* dynamic_shared() {
    extern __shared__ __align__(16) uint8_t shared[];
    return shared;
}

// Four matrices of 8 x 8 halves; lane 8 j + i has the address of row i of matrix j.
__device__ inline uint4 load_matrices(const void* from) {
    uint4 found;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
                 : "r"(shared_address(from))
                 : "memory");
    return found;
}

// Sixteen columns by eight rows each of (a, b) and, eight rows further, (c, d), as products leave them, become rows of 16.
__device__ inline void store_turned(uint8_t* to, int pitch, int lane, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#if __CUDA_ARCH__ >= 900
    to += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
#else
    uint32_t turned[4] = {a, b, c, d};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(turned[i]));
        *reinterpret_cast<uint32_t*>(to + (i / 2 * 8 + lane / 4) * pitch + i % 2 * 16 + lane % 4 * 4) = turned[i];
    }
#endif
}

// D (16, 8) += A (16, 8) B (8, 8)^T in float16.
__device__ inline void product_along_8(float (&d)[4], uint32_t a_low, uint32_t a_high, uint32_t b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a_low), "r"(a_high), "r"(b));
}

// D (8, 8) += A (8, 16) B (8, 16)^T in bytes.
__device__ inline void product_along_16(int& d_low, int& d_high, uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d_low), "+r"(d_high)
        : "r"(a), "r"(b));
}

// D (8, 8) += A (8, 32) B (8, 32)^T in signed codes of 4 bits.
__device__ inline void product_along_32(int& d_low, int& d_high, uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(d_low), "+r"(d_high)
        : "r"(a), "r"(b));
}

}  // namespace aquatint
