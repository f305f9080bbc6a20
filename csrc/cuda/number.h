// The numbers of a model, 16 bits each: bfloat16, or float16 where AQ_HALF is defined.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace aquatint {

#ifdef AQ_HALF
#define AQ_NUMBER "f16"
using Number = __half;

__device__ inline float wide(Number number) { return __half2float(number); }
__device__ inline Number narrow(float value) { return __float2half_rn(value); }
__device__ inline float2 two_floats(uint32_t pair) { return __half22float2(reinterpret_cast<const __half2&>(pair)); }
__device__ inline uint32_t two_numbers(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}
#else
#define AQ_NUMBER "bf16"
using Number = __nv_bfloat16;

__device__ inline float wide(Number number) { return __bfloat162float(number); }
__device__ inline Number narrow(float value) { return __float2bfloat16_rn(value); }
__device__ inline float2 two_floats(uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}
__device__ inline uint32_t two_numbers(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}
#endif

}  // namespace aquatint
