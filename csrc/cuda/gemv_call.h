// What a product of few rows is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

namespace aquatint {

struct GemvCall {
    const __nv_bfloat16* x;       // (M, K)
    const uint8_t* weight;        // (N, K) in bytes, or two codes in a byte
    const __nv_bfloat16* groups;  // the scales of 64 codes, (N, K / 64); null: there are none
    const float *rows, *bias;     // (N,): a scale on top; null: none
    uint16_t* y;                  // (M, N) in bf16
    int m, n, k, activation;
};

}  // namespace aquatint
