// What a product of few rows is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include "cuda/number.h"

namespace aquatint {

struct GemvCall {
    const Number* x;              // (M, K)
    const uint8_t* weight;        // (N, K) in bytes, or two codes in a byte
    const __nv_bfloat16* groups;  // the scales of 64 codes in bf16, (N, K / 64); null: there are none
    const float *rows, *bias;     // (N,): a scale on top; null: none
    Number* y;                    // (M, N)
    int m, n, k, activation;
};

}  // namespace aquatint
