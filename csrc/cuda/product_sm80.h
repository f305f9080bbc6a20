// A product's tile by a block, on any tensor cores since Turing: y = finish( codes_x . codes_w, scaled, + h up^T + bias ).
//
// Computed as y^T = W x^T, as on Hopper (product_sm90.h): the weight is the operand in registers. A block has two stages,
// where they fit: while one is multiplied, the copies into the other are under way.
#pragma once

#include "cuda/operands_sm80.h"
#include "cuda/turning.h"

namespace aquatint {

constexpr int kBranch = kTile * 128;  // bytes: the tokens' rows of the low-rank branch

// The tokens' scales and their rows of the low-rank branch, where stages were.
template <int Slices, class Operands>
__device__ inline void fetch_rows(uint8_t* branch, float* scales, const Operands& operands) {
    int first = operands.m * kTile;
    const ProductCall& call = operands.call;
    for (int row = threadIdx.x; !Operands::kScaled && row < kTile; row += kThreads)
        scales[row] = first + row < call.m ? operands.row_scale(first + row) : 0.0f;
    for (int i = threadIdx.x; i < kTile * 2 * Slices; i += kThreads) {
        int row = i % kTile, chunk = i / kTile, rank = chunk * 8;
        bool there = first + row < call.m && rank < call.rank;
        uint4 halves = there ? operands.branch(first + row, rank) : uint4{0, 0, 0, 0};
        *reinterpret_cast<uint4*>(branch + swizzled(row, chunk)) = halves;
    }
}

template <class Operands, int Slices, class Call>
__device__ inline void product(const Call& call) {
    using Sum = typename Operands::Sum;
    constexpr int kStages = 2 * Operands::kStage <= kSharedLeast ? 2 : 1;
    uint8_t* shared = dynamic_shared();
    auto [m, n] = call.tile(blockIdx.x);
    Operands operands{call, m, n};
    Sum sums[kParts][16] = {};
    operands.fetch(shared, 0);
    operands.settle(shared);
    copies_commit();
    for (int k = 0; k < call.k_tiles; ++k) {
        uint8_t *stage = shared + k % kStages * Operands::kStage, *other = shared + (k + 1) % kStages * Operands::kStage;
        bool more = k + 1 < call.k_tiles;
        copies_wait<0>();
        __syncthreads();  // all copies are there, and nobody reads the other stage any more
        if (more && kStages == 2) operands.fetch(other, k + 1);
        copies_commit();
        operands.multiply(sums, stage, k);
        if (more && kStages == 1) {
            __syncthreads();  // nobody reads the stage any more
            operands.fetch(other, k + 1);
            copies_commit();
        }
        if (more) operands.settle(other);
    }
    __syncthreads();

    uint8_t *branch = shared, *outgoing = branch + kBranch;
    auto* scales = reinterpret_cast<float*>(outgoing + kThreads / 32 * kOutgoing);
    fetch_rows<Slices>(branch, scales, operands);
    __syncthreads();
    const Warp& warp = operands.warp;
    uint8_t* own = outgoing + threadIdx.x / 32 * kOutgoing;
    int first_row = m * kTile + warp.tokens, first_column = n * kTile + warp.group * 64;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
        Channels<Slices> channels(call, n * 2 + warp.group, part * 32 + warp.lane);
        Leaving<Slices, 16, Operands::kScaled> leaving{call, channels, scales + warp.tokens, branch + warp.tokens * 128, own};
        if constexpr (kTurns<Call>) {
            Turning<16, kTile> turning{call, scales + kTile, own, first_column + part * 16};
            turning.settle(sums[part], leaving, warp.tokens, warp.lane);
        } else {
            leaving.run(sums[part], first_row, first_column + part * 16, warp.lane);
        }
        __syncwarp();  // what is outgoing has been read
    }
    if constexpr (kTurns<Call>) {
        __syncthreads();  // the heads' squares are there
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            Turning<16, kTile> turning{call, scales + kTile, own, first_column + part * 16};
            turning.run(sums[part], m * kTile, warp.tokens, warp.lane);
            __syncwarp();
        }
    }
}

}  // namespace aquatint

// Kernels of a linear layer, called with `Call`: each pair of formats without a branch, and with one of up to 32 or 64 ranks.
// Two blocks lie on a multiprocessor, where it has memory.
#define AQ_LAYER(stem, Call, operands, blocks, slices)                                                                       \
    extern "C" __global__ void __launch_bounds__(256, aquatint::kSharedLeast > 65536 ? blocks : 1)                            \
        stem##_s##slices(const __grid_constant__ aquatint::Call call) {                                                      \
        aquatint::product<aquatint::operands, slices>(call);                                                                 \
    }
#define AQ_RANKS(stem, Call, operands, blocks)                                                                               \
    AQ_LAYER(stem, Call, operands, blocks, 0)                                                                                \
    AQ_LAYER(stem, Call, operands, blocks, 2)                                                                                \
    AQ_LAYER(stem, Call, operands, blocks, 4)
#define AQ_LAYERS(stem, Call)                                                                                                \
    AQ_RANKS(stem##_w4a8, Call, ByRow<4>, 2)                                                                                 \
    AQ_RANKS(stem##_w8a8, Call, ByRow<8>, 1)                                                                                 \
    AQ_RANKS(stem##_w4a4, Call, ByGroup<aquatint::EachGroup>, 2)
