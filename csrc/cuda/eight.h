// Eight neighbours, sixteen bytes: what a thread reads and writes at once.
#pragma once

#include "cuda/warp.h"

namespace aquatint {

__device__ inline uint4 eight_numbers(const float* values) {
    float4 a = reinterpret_cast<const float4*>(values)[0], b = reinterpret_cast<const float4*>(values)[1];
    return {two_numbers(a.x, a.y), two_numbers(a.z, a.w), two_numbers(b.x, b.y), two_numbers(b.z, b.w)};
}

// Eight numbers in the order of x.
struct Eight {
    alignas(16) float v[8];

    __device__ explicit Eight(const uint4& numbers) {
        uint32_t pairs[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float2 two = two_floats(pairs[i]);
            v[2 * i] = two.x, v[2 * i + 1] = two.y;
        }
    }

    __device__ explicit Eight(const float* from) {
        float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }

    __device__ explicit Eight(float all) {
        for (float& one : v) one = all;
    }

    __device__ uint4 numbers() const { return eight_numbers(v); }

    __device__ void times(const Eight& by) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= by.v[i];
    }

    __device__ float largest() const {
        float most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i]));
        return most;
    }

    __device__ float sum() const { return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])); }

    // Rounded half to even: behind 1.5 * 2^23 a float has no fraction.
    __device__ uint32_t code(int i, float by) const { return __float_as_uint(fmaf(v[i], by, 12582912.0f)); }

    __device__ uint2 bytes(float by) const {
        uint32_t found[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            uint32_t low = __byte_perm(code(4 * i, by), code(4 * i + 1, by), 0x0040);
            found[i] = __byte_perm(low, __byte_perm(code(4 * i + 2, by), code(4 * i + 3, by), 0x0040), 0x5410);
        }
        return {found[0], found[1]};
    }

    // A scale in bf16 may be too small for the largest, by a part in 256: 7 is where codes end.
    __device__ uint32_t nibbles(float by) const {
        uint32_t found = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) found |= (uint32_t(int(rintf(fminf(fmaxf(v[i] * by, -7.0f), 7.0f)))) & 15) << (4 * i);
        return found;
    }
};

}  // namespace aquatint
