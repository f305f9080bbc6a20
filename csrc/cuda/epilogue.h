// What follows a product while its results are in registers: the activation, and the way out through shared memory, turned.
#pragma once

#include "cuda/activation.h"
#include "cuda/eight.h"
#include "cuda/product_call.h"
#include "cuda/swizzle.h"

namespace aquatint {

constexpr int kAtOnce = 32;                     // tokens that a warp works on together
constexpr int kPitch = 48;                      // bytes a token: a warp's 16 outputs, and 16 so that banks differ
constexpr int kOutgoing = 2 * kAtOnce * kPitch;  // bytes a warp: one part leaves while the next is worked on

__device__ inline uint32_t combined(uint32_t y, uint32_t other, bool times) {
    float2 a = two_floats(y), b = two_floats(other);
    return times ? two_numbers(a.x * b.x, a.y * b.y) : two_numbers(a.x + b.x, a.y + b.y);
}

__device__ inline uint4 combined(uint4 y, const Number* values, bool times) {
    uint4 other = *reinterpret_cast<const uint4*>(values);
    return {combined(y.x, other.x, times), combined(y.y, other.y, times), combined(y.z, other.z, times),
            combined(y.w, other.w, times)};
}

// What a thread knows of its two outputs, lane / 4 and 8 further of its warp's sixteen: scales, biases, the up-projection.
template <int Slices>
struct Channels {
    float2 scale, bias;
    uint4 up[Slices + 1];  // one more, so that none is a list too

    __device__ Channels(const ProductCall& call, int group, int thread) {
        int row = group * 64 + thread / 32 * 16 + thread % 32 / 4;
        scale = call.w_scales ? float2{call.w_scales[row], call.w_scales[row + 8]} : float2{0.0f, 0.0f};
        bias = call.bias ? float2{call.bias[row], call.bias[row + 8]} : float2{0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < Slices; ++i) up[i] = call.up[(int64_t(group) * Slices + i) * 128 + thread];
    }
};

// A warp's 16 outputs of 2 Count tokens: of tokens 8 j + lane % 4 * 2 and the next a thread holds its two outputs each.
//
// Warps do not wait for each other: 16 outputs of a token are a sector of memory. Sums are scaled here, unless they are.
template <int Slices, int Count, bool Scaled = false>
struct Leaving {
    static constexpr int kTokens = 2 * Count, kTiles = kAtOnce / 8;
    const ProductCall& call;
    const Channels<Slices>& channels;
    const float* scales;    // of the tokens, where sums are not scaled
    const uint8_t* branch;  // tokens by ranks, swizzled
    uint8_t* outgoing;

    template <class Sum>
    __device__ void run(const Sum (&sums)[Count], int first_row, int first_column, int lane) const {
        Curve curve(call.activation);
#pragma unroll
        for (int first = 0; first < kTokens; first += kAtOnce) {
            float y[kTiles][4];
            scale(y, sums + first / 2, first, lane);
            add_branch(y, first, lane);
            if (call.paired) {
#pragma unroll
                for (int i = 0; i < kTiles * 2; ++i) y[i / 2][i % 2] *= curve(y[i / 2][i % 2 + 2]);
            } else if (call.activation != kNone) {
#pragma unroll
                for (int i = 0; i < kTiles * 4; ++i) y[i / 4][i % 4] = curve(y[i / 4][i % 4]);
            }
            uint8_t* part = outgoing + first / kAtOnce % 2 * (kAtOnce * kPitch);
#pragma unroll
            for (int i = 0; i < kTiles; i += 2)
                store_turned(part + i * 8 * kPitch, kPitch, lane, two_numbers(y[i][0], y[i][1]), two_numbers(y[i][2], y[i][3]),
                             two_numbers(y[i + 1][0], y[i + 1][1]), two_numbers(y[i + 1][2], y[i + 1][3]));
            __syncwarp();
            send(part, first_row + first, first_column, lane);
        }
    }

    template <class Sum>
    __device__ void scale(float (&y)[kTiles][4], const Sum* sums, int token, int lane) const {
        float2 w = channels.scale, b = channels.bias;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            float2 x = {1.0f, 1.0f};
            if constexpr (!Scaled) x = *reinterpret_cast<const float2*>(scales + token + 8 * i + lane % 4 * 2);
            y[i][0] = Scaled ? sums[4 * i] + b.x : fmaf(float(sums[4 * i]), x.x * w.x, b.x);
            y[i][1] = Scaled ? sums[4 * i + 1] + b.x : fmaf(float(sums[4 * i + 1]), x.y * w.x, b.x);
            y[i][2] = Scaled ? sums[4 * i + 2] + b.y : fmaf(float(sums[4 * i + 2]), x.x * w.y, b.y);
            y[i][3] = Scaled ? sums[4 * i + 3] + b.y : fmaf(float(sums[4 * i + 3]), x.y * w.y, b.y);
        }
    }

    // Tile beside tile: a product need not wait for the one before it.
    __device__ void add_branch(float (&y)[kTiles][4], int token, int lane) const {
#pragma unroll
        for (int slice = 0; slice < Slices; slice += 2) {
            uint4 h[kTiles];
#pragma unroll
            for (int i = 0; i < kTiles; ++i)
                h[i] = load_matrices(branch + swizzled(token + 8 * i + lane % 8, 2 * slice + lane / 8));
#pragma unroll
            for (int i = 0; i < kTiles; ++i) product(y[i], channels.up[slice], h[i].x, h[i].y);
#pragma unroll
            for (int i = 0; i < kTiles; ++i) product(y[i], channels.up[slice + 1], h[i].z, h[i].w);
        }
    }

    // Sixteen bytes a thread, past gate and residual; of a gated unit there are half as many.
    __device__ void send(const uint8_t* part, int first_row, int first_column, int lane) const {
        if (call.paired && lane % 2) return;
        first_column >>= call.paired;
#pragma unroll
        for (int i = 0; i < kAtOnce / 16; ++i) {
            int token = i * 16 + lane / 2, row = first_row + token, column = first_column + lane % 2 * 8;
            if (row >= call.m || column >= call.n) continue;
            uint4 out = *reinterpret_cast<const uint4*>(part + token * kPitch + lane % 2 * 16);
            if (call.gate.values) out = combined(out, call.gate.of(row) + column, true);
            if (call.residual.values) out = combined(out, call.residual.of(row) + column, false);
            *reinterpret_cast<uint4*>(call.y + int64_t(row) * call.n + column) = out;
        }
    }
};

}  // namespace aquatint
