// y (M, N) = finish( scale_x scale_w (codes_x . codes_w) + h up^T + bias ), on Hopper's tensor cores, 4- or 8-bit weights.
//
// Computed as y^T = W x^T: the weight is the operand that lies in registers, so 4-bit codes are widened there, on their way in.
// A group's scale is a whole number and is multiplied into the widened codes; so a row is one sum of integers, exact, and the
// same in every run. The low-rank branch is a product of the tensor cores too, onto the scaled sums.
//
// A block: one warpgroup that fetches, two that multiply 64 outputs each by kTokens tokens. Grids are persistent: fetching runs
// ahead into the next tile.
#pragma once

#include "cuda/hopper.h"
#include "cuda/turning.h"
#include "cuda/wgmma.h"
#include "cuda/widen.h"

namespace aquatint {

constexpr int kDepth = 128;  // bytes along K of a tile
constexpr int kRegistersToFetch = 56, kRegistersToMultiply = 224;
constexpr int kSharedMost = 232448;

template <int Tokens, int Bits, int Slices, class Call>
struct Product {
    using Tile = Wgmma<Tokens>;
    using Stored = Weight<Bits>;
    static constexpr int kSquares = kTurns<Call> ? 8 * Tokens * 4 : 0;  // bytes
    static constexpr int kX = Tokens * kDepth, kStage = (kX + Stored::kBlock + 1023) / 1024 * 1024;
    static constexpr int kBranch = Tokens * 128, kRest = kBranch + 8 * kOutgoing + Tokens * 4 + kSquares + 1024 + 256;
    static constexpr int kMost = (kSharedMost - kRest) / kStage, kStages = kMost < 6 ? kMost : 6;

    struct Barriers {
        uint64_t full[kStages], empty[kStages], rows_full, rows_empty;
    };

    const Call& call;
    uint8_t *stages, *branch, *outgoing;
    float *scales, *squares;
    Barriers* barriers;

    __device__ Product(const Call& call, uint8_t* shared) : call(call) {
        shared += -shared_address(shared) & 1023;  // swizzled rows count from a multiple of 1024
        stages = shared;
        branch = stages + kStages * kStage;
        outgoing = branch + kBranch;
        scales = reinterpret_cast<float*>(outgoing + 8 * kOutgoing);
        squares = scales + Tokens;
        barriers = reinterpret_cast<Barriers*>(squares + kSquares / 4);
    }

    // Walks the ring of stages.
    struct Place {
        int stage = 0;
        uint32_t parity = 0;
        __device__ void next() {
            if (++stage == kStages) stage = 0, parity ^= 1;
        }
    };

    __device__ void prepare() const {
        for (int i = 0; i < kStages; ++i) {
            barrier_init(&barriers->full[i], 1);
            barrier_init(&barriers->empty[i], 8);  // each warp that multiplies
        }
        barrier_init(&barriers->rows_full, 96);
        barrier_init(&barriers->rows_empty, 8);
        barrier_init_fence();
    }

    // One thread: the weight's block and the tokens, stage after stage.
    __device__ void fetch(const TensorMap* x) const {
        Place place;
        for (int tile = blockIdx.x; tile < call.tiles(); tile += gridDim.x) {
            auto [m, n] = call.tile(tile);
            const uint8_t* weight = call.weight + int64_t(n) * call.k_tiles * Stored::kBlock;
            for (int k = 0; k < call.k_tiles; ++k, place.next()) {
                uint8_t* stage = stages + place.stage * kStage;
                uint64_t* full = &barriers->full[place.stage];
                barrier_wait(&barriers->empty[place.stage], place.parity ^ 1);
                barrier_expect(full, kX + Stored::kBlock);
                box_copy(stage, x, k * kDepth, m * Tokens, full);
                bulk_copy(stage + kX, weight + int64_t(k) * Stored::kBlock, Stored::kBlock, full);
            }
        }
    }

    // Three warps: the tokens' scales, and their rows of the low-rank branch.
    __device__ void fetch_rows(int thread) const {
        uint32_t parity = 1;
        for (int tile = blockIdx.x; tile < call.tiles(); tile += gridDim.x, parity ^= 1) {
            int first = call.tile(tile).m * Tokens;
            barrier_wait(&barriers->rows_empty, parity);
#pragma unroll 1
            for (int row = thread; row < Tokens; row += 96)
                scales[row] = first + row < call.m ? static_cast<const float*>(call.x_scales)[first + row] : 0.0f;
            if constexpr (Slices > 0) fetch_branch(first, thread);
            barrier_arrive(&barriers->rows_full);
        }
    }

    __device__ void fetch_branch(int first, int thread) const {
        constexpr int kChunks = 2 * Slices;  // of eight ranks
#pragma unroll 1
        for (int i = thread; i < Tokens * kChunks; i += 96) {
            int row = i / kChunks, rank = i % kChunks * 8;
            uint4 packed = {0, 0, 0, 0};
            if (first + row < call.m && rank < call.rank)
                packed = eight_numbers(call.h + int64_t(first + row) * call.rank + rank);
            *reinterpret_cast<uint4*>(branch + swizzled(row, rank / 8)) = packed;
        }
    }

    // A warpgroup: its 64 outputs of every tile.
    __device__ void multiply(int group, int thread) const {
        Place place;
        uint32_t parity = 0;
        for (int tile = blockIdx.x; tile < call.tiles(); tile += gridDim.x, parity ^= 1) {
            auto [m, n] = call.tile(tile);
            int sums[Tile::kRegisters];
            Place last = sum(sums, place, group, thread);
            Channels<Slices> channels(call, n * 2 + group, thread);  // on its way while the last product ends
            wgmma_wait<0>();
            pin(sums);
            release(last);
            leave(sums, channels, m, n, parity, group * 4 + thread / 32, thread % 32);
        }
    }

    // While one depth is multiplied, the next one's weight is widened. The last product is still under way at the end.
    __device__ Place sum(int (&sums)[Tile::kRegisters], Place& place, int group, int thread) const {
        uint32_t even[4][4], odd[4][4];
        Place before = place;
        load(even, place, group, thread);
        for (int k = 0; k < call.k_tiles; k += 2) {
            step(sums, even, place, before, k);
            if (k + 1 == call.k_tiles) break;
            load(odd, place, group, thread);
            step(sums, odd, place, before, k + 1);
            if (k + 2 < call.k_tiles) load(even, place, group, thread);
        }
        return before;
    }

    __device__ void load(uint32_t (&a)[4][4], const Place& place, int group, int thread) const {
        barrier_wait(&barriers->full[place.stage], place.parity);
#pragma unroll
        for (int half = 0; half < 2; ++half)
            Stored::widen(reinterpret_cast<uint32_t(&)[2][4]>(a[2 * half]), stages + place.stage * kStage + kX, group, half,
                          thread);
    }

    __device__ void step(int (&sums)[Tile::kRegisters], const uint32_t (&a)[4][4], Place& place, Place& before, int k) const {
        uint64_t x = rows_of_128(stages + place.stage * kStage);
        pin(sums);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) Tile::bytes(sums, a[i], x + 2 * i, k + i > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (k > 0) release(before);
        before = place;
        place.next();
    }

    __device__ void release(const Place& place) const {
        __syncwarp();  // the others have read it too
        if (threadIdx.x % 32 == 0) barrier_arrive(&barriers->empty[place.stage]);
    }

    __device__ void leave(int (&sums)[Tile::kRegisters], const Channels<Slices>& channels, int m, int n, uint32_t parity,
                          int warp, int lane) const {
        barrier_wait(&barriers->rows_full, parity);
        Leaving<Slices, Tile::kRegisters> leaving{call, channels, scales, branch, outgoing + warp * kOutgoing};
        if constexpr (kTurns<Call>) {
            Turning<Tile::kRegisters, Tokens> turning{call, squares, outgoing + warp * kOutgoing, n * 128 + warp * 16};
            turning.settle(sums, leaving, 0, lane);
            meet<256>();  // the heads' squares are there; they stay until the next tile's rows are, which all have left by then
            turning.run(sums, m * Tokens, 0, lane);
        } else {
            leaving.run(sums, m * Tokens, n * 128 + warp * 16, lane);
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(&barriers->rows_empty);
    }
};

template <int Tokens, int Bits, int Slices, class Call>
__device__ inline void product(const TensorMap* x, const Call& call) {
    Product<Tokens, Bits, Slices, Call> product(call, dynamic_shared());
    if (threadIdx.x == 0) product.prepare();
    __syncthreads();
    await_kernel_before();
    start_kernel_behind();
    int group = threadIdx.x / 128, thread = threadIdx.x % 128;
    if (group == 0) {
        give_registers<kRegistersToFetch>();
        if (thread == 0) product.fetch(x);
        if (thread >= 32) product.fetch_rows(thread - 32);
        __syncwarp();
    } else {
        take_registers<kRegistersToMultiply>();
        product.multiply(group - 1, thread);
    }
}

}  // namespace aquatint
