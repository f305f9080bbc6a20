// What a product's tile is fetched as and multiplied by: 128 tokens, 128 outputs, 128 bytes of codes along K at a time.
//
// A warp has 64 outputs, in four parts of 16, and 32 tokens, in four tiles of 8.
#pragma once

#include "cuda/epilogue.h"
#include "cuda/product_call.h"
#include "cuda/swizzle.h"
#include "cuda/widen.h"

namespace aquatint {

constexpr int kTile = 128, kThreads = 256;  // tokens and outputs; threads of a block
constexpr int kTokens = kTile * 128;        // bytes that a stage holds of them
constexpr int kParts = 4, kTiles = 4;       // of a warp

struct Warp {
    int lane = threadIdx.x % 32, group = threadIdx.x / 128, tokens = threadIdx.x / 32 % 4 * 32;
};

// Rows of codes from the tile's first on, `pitch` bytes each; what lies beyond the last row or byte is zero.
__device__ inline void fetch_tokens(uint8_t* to, const ProductCall& call, int first, int pitch, int depth) {
    int chunk = threadIdx.x % 8, byte = depth * 128 + chunk * 16;
#pragma unroll
    for (int row = threadIdx.x / 8; row < kTile; row += kThreads / 8) {
        bool there = first + row < call.m && byte < pitch;
        copy_16(to + swizzled(row, chunk), there ? call.codes + int64_t(first + row) * pitch + byte : call.codes, there);
    }
}

template <int Bytes>
__device__ inline void fetch_weight(uint8_t* to, const ProductCall& call, int n, int depth) {
    const uint8_t* from = call.weight + (int64_t(n) * call.k_tiles + depth) * Bytes;
#pragma unroll
    for (int i = threadIdx.x; i < Bytes / 16; i += kThreads) copy_16(to + i * 16, from + i * 16, true);
}

__device__ inline uint4 branch_of(const ProductCall& call, int row, int rank) {
    return eight_numbers(call.h + int64_t(row) * call.rank + rank);
}

// Half of a stage, 64 bytes along K, onto sums of integers.
template <int Bits>
__device__ inline void multiply_bytes(int (&sums)[kParts][16], const uint8_t* stage, int half, const Warp& warp) {
    uint4 x[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
        x[i] = load_matrices(stage + swizzled(warp.tokens + i * 8 + warp.lane % 8, half * 4 + warp.lane / 8));
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
        uint32_t a[2][4];
        Weight<Bits>::widen(a, stage + kTokens, warp.group, half, part * 32 + warp.lane);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            auto& sum = reinterpret_cast<int(&)[4]>(sums[part][4 * i]);
            product_of_bytes(sum, a[0], x[i].x, x[i].y);
            product_of_bytes(sum, a[1], x[i].z, x[i].w);
        }
    }
}

// Activations of 8 bits with a scale for each token; weights of 8 bits, or of 4 with whole numbers as their groups' scales.
template <int Bits>
struct ByRow {
    using Sum = int;
    static constexpr bool kScaled = false;
    using Stored = Weight<Bits>;
    static constexpr int kStage = kTokens + Stored::kBlock;

    const ProductCall& call;
    int m, n;
    Warp warp = {};

    __device__ void fetch(uint8_t* stage, int depth) {
        fetch_tokens(stage, call, m * kTile, call.k, depth);
        fetch_weight<Stored::kBlock>(stage + kTokens, call, n, depth);
    }

    __device__ void settle(uint8_t*) const {}

    __device__ void multiply(int (&sums)[kParts][16], const uint8_t* stage, int) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) multiply_bytes<Bits>(sums, stage, half, warp);
    }

    __device__ float row_scale(int row) const { return static_cast<const float*>(call.x_scales)[row]; }

    __device__ uint4 branch(int row, int rank) const { return branch_of(call, row, rank); }
};

// Activations and weights of 4 bits, scaled by groups on either side; `Scaling` knows what 64 along K are scaled by.
//
// A block of a weight: four times 64 along K as registers of A, [64 along K][64 outputs][part][lane], and behind them their
// scales, [64 along K][64 outputs][part][..]. A stage has a word of scales for each token and 64 along K.
template <class Scaling>
struct Groups {
    using Sum = float;
    using Word = typename Scaling::Word;
    static constexpr bool kScaled = Scaling::kScaled;
    static constexpr int kGroups = 4, kCodes = kTile * 128, kBlock = kCodes + kGroups * kTile * Scaling::kWeightBytes;
    static constexpr int kScales = kTokens + kBlock, kStage = kScales + kGroups * kTile * 4;

    Warp warp = {};
    Word own[kGroups] = {};  // the scales of a token, on their way to the stage

    __device__ void settle(uint8_t* stage) const {
        if (threadIdx.x >= kTile) return;
#pragma unroll
        for (int i = 0; i < kGroups; ++i) reinterpret_cast<Word*>(stage + kScales)[i * kTile + threadIdx.x] = own[i];
    }

    __device__ void multiply(float (&sums)[kParts][16], const uint8_t* stage, int) const {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            uint4 x[kTiles / 2];
            typename Scaling::Tokens x_scale[kTiles];
            auto* scales = reinterpret_cast<const Word*>(stage + kScales) + group * kTile + warp.tokens;
#pragma unroll
            for (int i = 0; i < kTiles / 2; ++i)
                x[i] = load_matrices(stage + swizzled(warp.tokens + i * 16 + warp.lane / 16 * 8 + warp.lane % 8,
                                                      group * 2 + warp.lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < kTiles; ++i) x_scale[i] = Scaling::of_tokens(scales + i * 8, warp.lane);
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
                int place = (group * 2 + warp.group) * kParts + part;
                uint4 a = reinterpret_cast<const uint4*>(stage + kTokens)[place * 32 + warp.lane];
                auto w_scale = Scaling::of_outputs(stage + kTokens + kCodes, place, warp.lane);
#pragma unroll
                for (int i = 0; i < kTiles; ++i) {
                    auto& sum = reinterpret_cast<float(&)[4]>(sums[part][4 * i]);
                    uint4 two = x[i / 2];
                    Scaling::add(sum, a, i % 2 ? two.z : two.x, i % 2 ? two.w : two.y, w_scale, x_scale[i]);
                }
            }
        }
    }
};

template <class Scaling>
struct ByGroup : Groups<Scaling> {
    using Base = Groups<Scaling>;
    const ProductCall& call;
    int m, n;

    __device__ ByGroup(const ProductCall& call, int m, int n) : call(call), m(m), n(n) {}

    __device__ void fetch(uint8_t* stage, int depth) {
        fetch_tokens(stage, call, m * kTile, call.k / 2, depth);
        fetch_weight<Base::kBlock>(stage + kTokens, call, n, depth);
        if (threadIdx.x >= kTile) return;
        int token = m * kTile + int(threadIdx.x);
#pragma unroll
        for (int i = 0; i < Base::kGroups; ++i) {
            int group = depth * Base::kGroups + i;
            this->own[i] = token < call.m && group < call.k / 64 ? Scaling::of_token(call, token, group) : 0;
        }
    }

    __device__ float row_scale(int row) const { return Scaling::of_row(call, row); }

    __device__ uint4 branch(int row, int rank) const { return branch_of(call, row, rank); }
};

// A scale in bf16 for each group of 64; of a weight's, rows r and r + 8 are a word.
struct EachGroup {
    using Word = float;
    using Tokens = float2;
    static constexpr bool kScaled = true;
    static constexpr int kWeightBytes = 2;

    __device__ static float of_group(const ProductCall& call, int64_t place) {
        return __bfloat162float(static_cast<const __nv_bfloat16*>(call.x_scales)[place]);
    }

    __device__ static float of_token(const ProductCall& call, int token, int group) {
        return of_group(call, int64_t(token) * (call.k / 64) + group);
    }

    __device__ static float2 of_tokens(const float* scales, int lane) {
        return *reinterpret_cast<const float2*>(scales + lane % 4 * 2);
    }

    __device__ static float2 of_outputs(const uint8_t* scales, int place, int lane) {
        uint32_t pair = reinterpret_cast<const uint32_t*>(scales)[place * 8 + lane / 4];
        return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
    }

    __device__ static float of_row(const ProductCall&, int) { return 1.0f; }

    // Onto 1.5 * 2^23 a product's integers are the last bits of floats already.
    __device__ static void add(float (&sum)[4], const uint4& a, uint32_t b_low, uint32_t b_high, float2 w, float2 x) {
        constexpr int kOnto = 0x4b400000;
        int found[4] = {kOnto, kOnto, kOnto, kOnto};
        product_of_nibbles(found, a, b_low, b_high);
        float by[4] = {w.x * x.x, w.x * x.y, w.y * x.x, w.y * x.y};
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = fmaf(__int_as_float(found[i]) - __int_as_float(kOnto), by[i], sum[i]);
    }
};

}  // namespace aquatint
