// What quantizing is called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include "cuda/product_call.h"

namespace aquatint {

struct QuantizeCall {
    const Number* x;
    const float* smooth;
    const uint4* down;  // times smooth, in the order of the registers of the kernel; zeros beyond rank
    Spread gain, offset;
    int8_t* codes;  // (M, K), or two in a byte
    void* scales;  // float (M,), or bf16 (M, K / 64)
    float* h;
    int m, k, rank, activation;
    int blocks, share, rooms;  // of a cluster; columns of each, a multiple of 16; for so many rows at a time is there memory
    float eps;          // below zero: no norm

    __device__ bool plain() const { return eps < 0 && !gain.values && !offset.values && activation == 0; }
};

}  // namespace aquatint
