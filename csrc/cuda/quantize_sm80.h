// x' = prologue(x) * smooth in a format, a scale for each row or for 64 neighbours, and h = x' down^T.
//
// A block has sixteen rows, and its warps take their columns in turn. A lane reads eight neighbours of two rows at once; as a
// product's sum may be taken in any order, these are its operand as they come. Sums are added in one order, so that every run
// gives the same bits. Where a scale needs its whole row x is read again, mostly from a cache.
#pragma once

#include "common/codec.h"
#include "cuda/eight.h"
#include "cuda/epilogue.h"
#include "cuda/quantize_call.h"

namespace aquatint {

constexpr int kRows = 16, kWarps = 8, kThreads = 32 * kWarps;
constexpr int kWide = 64;  // columns that a warp takes at once, in two halves

__device__ inline float total(float value) {
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

// Over the four lanes that share a row.
__device__ inline float most_of_four(float value) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
    return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// What a format is: are its scales known only when a row has been read, and what becomes of sixty-four columns, or of eight.
struct Bytes {
    static constexpr bool kByRow = true;

    // The row's scale, stored, and what codes are made with.
    __device__ static float2 scale(const QuantizeCall& call, int row, float largest) {
        float scale = group_scale(largest, 127.0f);
        if (row < call.m) static_cast<float*>(call.scales)[row] = scale;
        return {scale, 1.0f / scale};
    }

    __device__ static void put(const QuantizeCall& call, int row, int column, const Eight& eight, float2 scale) {
        uint2 codes = eight.bytes(scale.y);
        if (row < call.m) *reinterpret_cast<uint2*>(call.codes + int64_t(row) * call.k + column) = codes;
    }
};

struct Nibbles {
    static constexpr bool kByRow = false;

    // A group of 64, eight neighbours and eight 32 further of each of four lanes.
    __device__ static void put(const QuantizeCall& call, int row, int first, int quad, const Eight& near, const Eight& far) {
        float largest = most_of_four(fmaxf(near.largest(), far.largest()));
        uint16_t scale = float_to_bfloat16(group_scale(largest, 7.0f));
        float by = 1.0f / bfloat16_to_float(scale);
        if (row >= call.m) return;
        auto* codes = reinterpret_cast<uint32_t*>(call.codes + (int64_t(row) * call.k + first) / 2);
        codes[quad] = near.nibbles(by), codes[4 + quad] = far.nibbles(by);
        if (quad == 0) static_cast<uint16_t*>(call.scales)[(int64_t(row) * call.k + first) / kWide] = scale;
    }
};

template <class Format, int Slices>
struct Quantize {
    static constexpr int kTiles = 2 * Slices;  // of eight ranks
    using Sums = float[kTiles + 1][4];         // one more, so that none is a list too

    // Shared memory.
    struct Shared {
        float sums[kWarps][kTiles * 4][32];
        float largest[kWarps][kRows];
        float2 scale[kRows];
        float2 normal[kRows];
    };

    const QuantizeCall& call;
    Shared& shared;
    int first_row, warp, lane;
    int rows[2];  // of this lane; behind the last it reads the last one, and what becomes of that is not written
    float2 normal[2];

    __device__ Quantize(const QuantizeCall& call, uint8_t* memory) : call(call), shared(*reinterpret_cast<Shared*>(memory)) {
        first_row = blockIdx.x * kRows, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        for (int i = 0; i < 2; ++i) rows[i] = min(first_row + i * 8 + lane / 4, call.m - 1), normal[i] = {1.0f, 0.0f};
    }

    __device__ void run() {
        if (call.eps >= 0) norm();
        Sums h = {};
        float most[2] = {};
        for (int column = warp * kWide; column < call.k; column += kWarps * kWide) take(h, most, column);
        if constexpr (Slices > 0) {
#pragma unroll
            for (int i = 0; i < kTiles * 4; ++i) shared.sums[warp][i][lane] = h[i / 4][i % 4];
        }
        for (int i = 0; i < 2; ++i) {
            float largest = most_of_four(most[i]);
            if (lane % 4 == 0) shared.largest[warp][i * 8 + lane / 4] = largest;
        }
        __syncthreads();
        if constexpr (Slices > 0) project();
        if constexpr (Format::kByRow) encode();
    }

    // A layer norm of each row as a factor and a summand; a warp takes whole rows.
    __device__ void norm() {
        for (int row = warp; row < kRows; row += kWarps) {
            const Number* x = call.x + int64_t(min(first_row + row, call.m - 1)) * call.k;
            float sum = 0, square = 0;
            for (int column = lane * 8; column < call.k; column += 256)
                sum += Eight(*reinterpret_cast<const uint4*>(x + column)).sum();
            float mean = total(sum) / call.k;
            for (int column = lane * 8; column < call.k; column += 256) {
                Eight eight(*reinterpret_cast<const uint4*>(x + column));
                for (float v : eight.v) square += (v - mean) * (v - mean);
            }
            float inverse = rsqrtf(total(square) / call.k + call.eps);
            if (lane == 0) shared.normal[row] = {inverse, -mean * inverse};
        }
        __syncthreads();
        for (int i = 0; i < 2; ++i) normal[i] = shared.normal[i * 8 + lane / 4];
    }

    // Sixty-four columns: their part of h and of the rows' magnitudes; with 4 bits they are done with then.
    __device__ void take(Sums& h, float (&most)[2], int first) const {
        uint4 halves[2][2];  // of a row, of a half
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int column = first + half * 32 + lane % 4 * 8;
            bool there = column < call.k;
#pragma unroll
            for (int i = 0; i < 2; ++i) halves[i][half] = there ? numbers(i, column) : uint4{0, 0, 0, 0};
            if (first + half * 32 < call.k) add(h, halves[0][half], halves[1][half], (first + half * 32) / 32);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            Eight near = smoothed(halves[i][0], first + lane % 4 * 8), far = smoothed(halves[i][1], first + 32 + lane % 4 * 8);
            most[i] = fmaxf(most[i], fmaxf(near.largest(), far.largest()));
            if constexpr (!Format::kByRow) Format::put(call, first_row + i * 8 + lane / 4, first, lane % 4, near, far);
        }
    }

    // Eight columns of a lane's row behind the prologue.
    __device__ uint4 numbers(int i, int column) const {
        uint4 x = *reinterpret_cast<const uint4*>(call.x + int64_t(rows[i]) * call.k + column);
        if (call.plain()) return x;
        Eight eight(x);
#pragma unroll
        for (float& v : eight.v) v = v * normal[i].x + normal[i].y;
        if (call.gain.values) eight.times(vector(call.gain, rows[i], column));
        if (call.offset.values) {
            Eight offset = vector(call.offset, rows[i], column);
#pragma unroll
            for (int j = 0; j < 8; ++j) eight.v[j] += offset.v[j];
        }
        Curve curve(call.activation);
        if (call.activation != kNone) {
#pragma unroll
            for (float& v : eight.v) v = curve(v);
        }
        return eight.numbers();
    }

    __device__ static Eight vector(const Spread& spread, int row, int column) {
        if (spread.floats) return Eight(spread.of<float>(row) + column);
        return Eight(*reinterpret_cast<const uint4*>(spread.of(row) + column));
    }

    __device__ Eight smoothed(const uint4& halves, int column) const {
        Eight eight(halves);
        if (call.smooth && column < call.k) eight.times(Eight(call.smooth + column));
        return eight;
    }

    // Columns 8 q to 8 q + 7 of 32 are what a lane has of two products.
    __device__ void add(Sums& h, const uint4& near, const uint4& far, int slice) const {
        const uint4* down = call.down + int64_t(slice) * kTiles * 32 + lane;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            uint4 by = down[i * 32];
            product(h[i], {near.x, far.x, near.y, far.y}, by.x, by.y);
            product(h[i], {near.z, far.z, near.w, far.w}, by.z, by.w);
        }
    }

    // What all warps found, in their order.
    __device__ void project() const {
        for (int i = threadIdx.x; i < kTiles * 4 * 32; i += kThreads) {
            int place = i / 32, own = i % 32;
            float sum = 0;
            for (int other = 0; other < kWarps; ++other) sum += shared.sums[other][place][own];
            int row = first_row + place % 4 / 2 * 8 + own / 4, rank = place / 4 * 8 + own % 4 * 2 + place % 2;
            if (row < call.m && rank < call.rank) call.h[int64_t(row) * call.rank + rank] = sum;
        }
    }

    __device__ void encode() const {
        if (threadIdx.x < kRows) {
            float most = 0;
            for (int i = 0; i < kWarps; ++i) most = fmaxf(most, shared.largest[i][threadIdx.x]);
            shared.scale[threadIdx.x] = Format::scale(call, first_row + threadIdx.x, most);
        }
        __syncthreads();
        for (int column = warp * 32 + lane % 4 * 8; column < call.k; column += kWarps * 32)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                int row = i * 8 + lane / 4;
                Format::put(call, first_row + row, column, smoothed(numbers(i, column), column), shared.scale[row]);
            }
    }
};

template <class Format, int Slices>
__device__ inline void quantize(const QuantizeCall& call) {
    Quantize<Format, Slices> quantize(call, dynamic_shared());
    quantize.run();
}

}  // namespace aquatint
