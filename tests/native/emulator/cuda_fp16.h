// As much of CUDA's header of this name as the kernels use.
#pragma once

#include "words.h"

struct __half {
    _Float16 value;
};
struct __half2 {
    __half x, y;
};

inline float __half2float(__half number) { return float(number.value); }
inline __half __float2half_rn(float value) { return {_Float16(value)}; }
inline float2 __half22float2(__half2 two) { return {__half2float(two.x), __half2float(two.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
