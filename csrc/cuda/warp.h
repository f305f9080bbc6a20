// Products of a warp and copies to shared memory, on tensor cores of any age: Ampere's instructions, or Turing's instead.
//
// Registers of a larger product are those of smaller ones side by side, so that what reads and packs them need not know.
#pragma once

#include "cuda/number.h"

#if defined(AQ_TURING) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#ifndef AQ_HALF
#error "Turing's tensor cores have no bfloat16"
#endif
#include "cuda/turing.h"

namespace aquatint {

constexpr int kSharedLeast = 65536;  // of a block

// By the thread itself: it waits for them.
__device__ inline void copy_16(void* to, const void* from, bool there) {
    *static_cast<uint4*>(to) = there ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
}

__device__ inline void copies_commit() {}

template <int Pending>
__device__ inline void copies_wait() {}

__device__ inline void product(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    product_along_8(d, a.x, a.y, b_low);
    product_along_8(d, a.z, a.w, b_high);
}

__device__ inline void product_of_bytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
    product_along_16(d[0], d[1], a[0], b_low);
    product_along_16(d[2], d[3], a[1], b_low);
    product_along_16(d[0], d[1], a[2], b_high);
    product_along_16(d[2], d[3], a[3], b_high);
}

__device__ inline void product_of_nibbles(int (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    product_along_32(d[0], d[1], a.x, b_low);
    product_along_32(d[2], d[3], a.y, b_low);
    product_along_32(d[0], d[1], a.z, b_high);
    product_along_32(d[2], d[3], a.w, b_high);
}

}  // namespace aquatint
#else
#include "cuda/ampere.h"

namespace aquatint {

constexpr int kSharedLeast = 101376;  // of a block, on the smallest of them

}  // namespace aquatint
#endif
