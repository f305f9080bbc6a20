// Queries and keys on their way out: an RMS norm of each head, and rotary positions, while the results are in registers.
//
// Of a warp's sixteen outputs the first eight turn with the last eight, so that a thread has both of each pair: the weight's
// rows are in that order (runtime/cuda/turned.py), and the results are put back into theirs when they leave.
#pragma once

#include <type_traits>

#include "cuda/epilogue.h"
#include "cuda/turned_call.h"

namespace aquatint {

template <class Call>
constexpr bool kTurns = std::is_same<Call, TurnedCall>::value;

__device__ inline void keep(int& place, float value) { place = __float_as_int(value); }
__device__ inline void keep(float& place, float value) { place = value; }
__device__ inline float kept(int value) { return __int_as_float(value); }
__device__ inline float kept(float value) { return value; }

// Sixteen outputs of 2 Count tokens of a tile of `Tokens`. All warps meet between `settle` and `run`.
template <int Count, int Tokens>
struct Turning {
    static constexpr int kTiles = kAtOnce / 8;
    const TurnedCall& call;
    float* squares;  // (8, Tokens): each sixteen outputs' sum of squares
    uint8_t* outgoing;
    int column;  // of the first output, counted in the order of the weight's rows

    // The results in the place of their sums; from token `first` of the tile on.
    template <class Sum, class Leaving>
    __device__ void settle(Sum (&sums)[Count], const Leaving& leaving, int first, int lane) const {
        float* own = squares + column % 128 / 16 * Tokens + first;
#pragma unroll
        for (int token = 0; token < 2 * Count; token += kAtOnce) {
            float y[kTiles][4];
            leaving.scale(y, sums + token / 2, token, lane);
            leaving.add_branch(y, token, lane);
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
                float2 square = {y[i][0] * y[i][0] + y[i][2] * y[i][2], y[i][1] * y[i][1] + y[i][3] * y[i][3]};
#pragma unroll
                for (int step = 4; step < 32; step *= 2) {
                    square.x += __shfl_xor_sync(~0u, square.x, step);
                    square.y += __shfl_xor_sync(~0u, square.y, step);
                }
                if (lane < 4) *reinterpret_cast<float2*>(own + token + 8 * i + lane * 2) = square;
#pragma unroll
                for (int j = 0; j < 4; ++j) keep(sums[token / 2 + 4 * i + j], y[i][j]);
            }
        }
    }

    template <class Sum>
    __device__ void run(const Sum (&sums)[Count], int first_row, int first, int lane) const {
        float2 weight = {1.0f, 1.0f};
        int place = column % call.width + lane / 4;
        if (call.norm) weight = {call.norm[place], call.norm[place + 8]};
#pragma unroll
        for (int token = 0; token < 2 * Count; token += kAtOnce) {
            uint8_t* part = outgoing + token / kAtOnce % 2 * (kAtOnce * kPitch);
            uint2 out[kTiles];
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
                int at = first + token + 8 * i + lane % 4 * 2;
                float2 norm = norms(at), low, high;
                const Sum* y = sums + token / 2 + 4 * i;
                turn(low.x, high.x, kept(y[0]) * norm.x * weight.x, kept(y[2]) * norm.x * weight.y, first_row + at, lane);
                turn(low.y, high.y, kept(y[1]) * norm.y * weight.x, kept(y[3]) * norm.y * weight.y, first_row + at + 1, lane);
                out[i] = {two_numbers(low.x, low.y), two_numbers(high.x, high.y)};
            }
#pragma unroll
            for (int i = 0; i < kTiles; i += 2)
                store_turned(part + i * 8 * kPitch, kPitch, lane, out[i].x, out[i].y, out[i + 1].x, out[i + 1].y);
            __syncwarp();
            send(part, first_row + first + token, lane);
        }
    }

    // What two tokens' heads are multiplied with.
    __device__ float2 norms(int token) const {
        if (call.eps < 0) return {1.0f, 1.0f};
        int slots = call.width / 16, first = column % 128 / call.width * slots;
        float2 sum = {0.0f, 0.0f};
#pragma unroll 1
        for (int slot = first; slot < first + slots; ++slot) {
            float2 square = *reinterpret_cast<const float2*>(squares + slot * Tokens + token);
            sum.x += square.x, sum.y += square.y;
        }
        return {rsqrtf(sum.x / call.width + call.eps), rsqrtf(sum.y / call.width + call.eps)};
    }

    __device__ void turn(float& low, float& high, float a, float b, int row, int lane) const {
        float4 angle = call.angles[row % call.tokens * (call.width / 2) + column % call.width / 2 + lane / 4];
        low = a * angle.x - b * angle.y;
        high = b * angle.z + a * angle.w;
    }

    // Sixteen bytes a thread, pairs as they were.
    __device__ void send(const uint8_t* part, int first_row, int lane) const {
        if (column >= call.n) return;
        int head = column / call.width * call.width, within = column % call.width, second = lane % 2;
        int place = head + (call.halves ? within / 2 + second * (call.width / 2) : within + second * 8);
#pragma unroll
        for (int i = 0; i < kAtOnce / 16; ++i) {
            int token = i * 16 + lane / 2, row = first_row + token;
            if (row >= call.m) continue;
            const uint8_t* from = part + token * kPitch;
            uint4 out = call.halves ? *reinterpret_cast<const uint4*>(from + second * 16) : neighbours(from + second * 8);
            *reinterpret_cast<uint4*>(call.y + int64_t(row) * call.n + place) = out;
        }
    }

    // Four pairs, whose second numbers lie sixteen bytes behind the first ones.
    __device__ static uint4 neighbours(const uint8_t* from) {
        uint2 a = *reinterpret_cast<const uint2*>(from), b = *reinterpret_cast<const uint2*>(from + 16);
        return {__byte_perm(a.x, b.x, 0x5410), __byte_perm(a.x, b.x, 0x7632), __byte_perm(a.y, b.y, 0x5410),
                __byte_perm(a.y, b.y, 0x7632)};
    }
};

}  // namespace aquatint
