// What every GPU since Ampere has, as functions: larger products of a warp, copies to shared memory that nobody waits for.
// Semantics: PTX ISA 8.7, "Warp Level Matrix Multiply-Accumulate Instructions" and "Data Movement and Conversion Instructions".
//
// tests/native/emulator/cuda/ampere.h is the same in plain C++.
#pragma once

#include "cuda/number.h"
#include "cuda/turing.h"

namespace aquatint {

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

// D (16, 8) += A (16, 16) B (8, 16)^T in the model's numbers.
__device__ inline void product(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." AQ_NUMBER "." AQ_NUMBER ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
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
