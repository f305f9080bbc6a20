// The machine's ceiling: products of bytes with both operands where they are wanted, and nothing else.
#include "cuda/hopper.h"
#include "cuda/wgmma.h"

extern "C" __global__ void __launch_bounds__(256, 1) ceiling_bytes(const uint4* numbers, int* out, int rounds) {
    extern __shared__ __align__(1024) uint8_t shared[];
    uint8_t* x = shared + (-aquatint::shared_address(shared) & 1023);
    for (int i = threadIdx.x; i < 2048; i += 256) reinterpret_cast<uint4*>(x)[i] = numbers[i];
    aquatint::async_fence();
    __syncthreads();
    int sums[128] = {};
    uint32_t a[4];
    for (uint32_t& v : a) v = reinterpret_cast<const uint32_t*>(numbers)[(threadIdx.x * 7 + (&v - a)) % 8192];
    uint64_t b = aquatint::rows_of_128(x);
    for (int i = 0; i < rounds; ++i) {
        aquatint::wgmma_fence();
#pragma unroll
        for (int j = 0; j < 4; ++j) aquatint::Wgmma<256>::bytes(sums, a, b + 2 * j, 1);
        aquatint::wgmma_commit();
    }
    aquatint::wgmma_wait<0>();
    int total = 0;
    for (int v : sums) total ^= v;
    out[blockIdx.x * 256 + threadIdx.x] = total;
}
