// What the products are called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include "cuda/number.h"

namespace aquatint {

constexpr int kGroupOfTiles = 8;  // tiles of tokens that are worked on side by side, so that what they read stays in the L2

// Vectors of N, one for each row of y or one for so many in turn, `stride` apart; null where there are none.
struct Spread {
    const void* values;  // the model's numbers
    uint32_t inverse;  // 2^32 over how many rows, rounded up: a division as the upper half of a product; 0: one for each row
    int stride;
    int floats;  // what quantizing reads may be in float32 instead

    template <class Value = Number>
    __device__ const Value* of(int row) const {
        return static_cast<const Value*>(values) + int64_t(inverse ? __umulhi(row, inverse) : row) * stride;
    }
};

struct ProductCall {
    const uint8_t* codes;   // (M, K) in bytes, or two in a byte; the copy engine is told of them by itself
    const uint8_t* weight;  // blocks of 128 outputs by 128 or 256 along K, in the order of the registers
    const void* x_scales;   // float (M,), or a group's in bf16 (M, K / 64)
    const float *w_scales, *bias;
    const float* h;   // (M, rank)
    const uint4* up;  // in the order of the registers
    Spread gate, residual;
    Number* y;
    int m, n, k, rank, activation;
    int m_tiles, n_tiles, k_tiles;  // n_tiles: of the weight's rows
    int paired;  // a gated unit: eight rows of the weight, and eight that are activated and multiply them; n: of either

    struct Tile {
        int m, n;
    };

    __device__ int tiles() const { return m_tiles * n_tiles; }

    __device__ Tile tile(int index) const {
        int wide = kGroupOfTiles * n_tiles, first = index / wide * kGroupOfTiles;
        int rows = min(kGroupOfTiles, m_tiles - first), within = index % wide;
        return {first + within % rows, within / rows};
    }
};

}  // namespace aquatint
