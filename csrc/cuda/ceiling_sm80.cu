// The machine's ceiling for a warp's products: operands in registers, and nothing else. Of bytes, and of codes of 4 bits.
#include "cuda/ampere.h"

namespace aquatint {

constexpr int kSums = 8;  // products at once that need not wait for each other

template <bool Nibbles>
__device__ inline void ceiling(const uint32_t* numbers, int* out, int rounds) {
    int sums[kSums][4] = {};
    uint32_t a[4];
    for (int i = 0; i < 4; ++i) a[i] = numbers[(threadIdx.x * 7 + i) % 8192];
    for (int i = 0; i < rounds; ++i)
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
            if constexpr (Nibbles)
                product_of_nibbles(sums[j], {a[0], a[1], a[2], a[3]}, a[j % 4], a[(j + 1) % 4]);
            else
                product_of_bytes(sums[j], a, a[j % 4], a[(j + 1) % 4]);
        }
    int total = 0;
    for (auto& sum : sums)
        for (int v : sum) total ^= v;
    out[blockIdx.x * 256 + threadIdx.x] = total;
}

}  // namespace aquatint

extern "C" __global__ void __launch_bounds__(256) ceiling_bytes(const uint32_t* numbers, int* out, int rounds) {
    aquatint::ceiling<false>(numbers, out, rounds);
}

extern "C" __global__ void __launch_bounds__(256) ceiling_nibbles(const uint32_t* numbers, int* out, int rounds) {
    aquatint::ceiling<true>(numbers, out, rounds);
}
