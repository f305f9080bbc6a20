// CUDA's own words, types and functions, as much of them as the kernels use.
#pragma once

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline void __syncthreads() { emulator::cluster.meet(emulator::cluster.block().meeting); }
inline void __syncwarp() { emulator::cluster.meet(emulator::cluster.warp().meeting); }
inline float __shfl_xor_sync(uint32_t, float value, int mask) { return emulator::all_lanes(value)[threadIdx.x % 32 ^ mask]; }

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint64_t(a) * b >> 32; }
inline float __uint_as_float(uint32_t bits) { float f; std::memcpy(&f, &bits, 4); return f; }
inline float __int_as_float(int bits) { return __uint_as_float(uint32_t(bits)); }
inline int __float_as_int(float f) { int bits; std::memcpy(&bits, &f, 4); return bits; }
inline uint32_t __float_as_uint(float f) { uint32_t bits; std::memcpy(&bits, &f, 4); return bits; }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t choice) {
    uint64_t both = uint64_t(high) << 32 | low;
    uint32_t found = 0;
    for (int i = 0; i < 4; ++i) found |= uint32_t(both >> (choice >> (4 * i) & 7) * 8 & 255) << (8 * i);
    return found;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
template <class T>
T min(T a, T b) { return std::min(a, b); }
template <class T>
T max(T a, T b) { return std::max(a, b); }
