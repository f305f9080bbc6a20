// What rotating is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

namespace aquatint {

struct RotaryCall {
    const __nv_bfloat16* x;  // (samples, tokens, heads, width)
    const float *cos, *sin;  // (tokens, width)
    const float* weight;     // (width,): of the norm; null: none
    __nv_bfloat16* y;
    int rows, tokens, heads, width;
    int group;  // lanes that share a row: a power of two, eight numbers each
    float eps;  // below zero: no norm
};

}  // namespace aquatint
