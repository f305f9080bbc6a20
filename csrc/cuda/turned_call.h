// What a product of queries or keys is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include "cuda/product_call.h"

namespace aquatint {

struct TurnedCall : ProductCall {
    const float4* angles;  // (tokens, width / 2): of a pair's first number cosine and sine, and of its second
    const float* norm;     // (width,): the norm's weight, in the order of the weight's rows; null: ones
    int tokens;
    int width;   // of a head: 16, 32, 64 or 128
    int halves;  // a pair is half a head apart, and not neighbours
    float eps;   // below zero: no norm
};

}  // namespace aquatint
