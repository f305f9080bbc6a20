// As much of CUDA's header of this name as the kernels use.
#pragma once

#include "words.h"
#include "common/codec.h"

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 value) { return aquatint::bfloat16_to_float(value.bits); }
inline float2 __bfloat1622float2(__nv_bfloat162 two) { return {__bfloat162float(two.x), __bfloat162float(two.y)}; }
