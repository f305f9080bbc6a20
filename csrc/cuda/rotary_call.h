// What rotating is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include "cuda/number.h"

namespace aquatint {

struct RotaryCall {
    const Number* x;  // (samples, tokens, heads, width)
    const float *cos, *sin;  // (tokens, width), or (tokens, width / 2) if they are by pairs
    const float* weight;     // (width,): of the norm; null: none
    Number* y;
    int rows, tokens, heads, width;
    int group;  // lanes that share a row: a power of two, eight numbers each
    int by_pairs;
    int by_halves;  // a pair is half a row apart, and not neighbours
    float eps;  // below zero: no norm
};

}  // namespace aquatint
