// What every GPU since Ampere has, as functions: products of a warp, copies to shared memory that nobody waits for.
// Semantics: PTX ISA 8.7, "Warp Level Matrix Multiply-Accumulate Instructions" and "Data Movement and Conversion Instructions".
//
// tests/native/emulator/cuda/ampere.h is the same in plain C++.
#pragma once

#include <cstdint>

namespace aquatint {

__device__ inline uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

// The block's shared memory, as much as it was launched with.
__device__ inline uint8_t* dynamic_shared() {
    extern __shared__ __align__(16) uint8_t shared[];
    return shared;
}

__device__ inline uint32_t two_halves(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Sixteen bytes, past the first-level cache; zeros if nothing is `there`.
__device__ inline void copy_16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most this many of the thread's groups that were committed are still under way.
template <int Pending>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
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

// D (16, 8) += A (16, 16) B (8, 16)^T in bf16.
__device__ inline void product(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b_low), "r"(b_high));
}

// D (16, 8) += A (16, 32) B (8, 32)^T in bytes.
__device__ inline void product_of_bytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// D (16, 8) += A (16, 64) B (8, 64)^T in signed codes of 4 bits.
__device__ inline void product_of_nibbles(int (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b_low), "r"(b_high));
}

}  // namespace aquatint
