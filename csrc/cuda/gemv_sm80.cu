// y (M, N) = activation( x w^T + bias ) for few rows of plain numbers, by weights of 4 or 8 bits.
//
// Time is what reading the weight takes. A warp has four outputs, a lane eight neighbours along K of each, and it reads x once
// for all of them. Sums are added in one order, so that every run gives the same bits.
#include "common/codec.h"
#include "cuda/activation.h"
#include "cuda/gemv_call.h"

namespace aquatint {

constexpr int kOutputs = 4, kWarps = 4;  // of a warp, of a block

// Whole numbers behind 2^23 are the last bits of a float.
__device__ inline float whole(uint32_t bits, float zero) { return __uint_as_float(0x4b000000 | bits) - (8388608.0f + zero); }

template <int Bits>
__device__ inline void read_codes(float (&codes)[8], const uint8_t* from);

template <>
__device__ inline void read_codes<4>(float (&codes)[8], const uint8_t* from) {
    uint32_t word = *reinterpret_cast<const uint32_t*>(from) ^ 0x88888888;  // -8..7 as 0..15
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[i] = whole(word >> (4 * i) & 15, 8.0f);
}

template <>
__device__ inline void read_codes<8>(float (&codes)[8], const uint8_t* from) {
    uint2 words = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[i] = whole(((i < 4 ? words.x : words.y) ^ 0x80808080) >> (8 * (i % 4)) & 255, 128.0f);
}

template <int Rows>
__device__ inline void read_x(float (&x)[Rows][8], const GemvCall& call, int first, int column) {
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
        uint4 word = *reinterpret_cast<const uint4*>(call.x + int64_t(min(first + i, call.m - 1)) * call.k + column);
        float2 pairs[4] = {two_floats(word.x), two_floats(word.y), two_floats(word.z), two_floats(word.w)};
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] = j % 2 ? pairs[j / 2].y : pairs[j / 2].x;
    }
}

template <int Bits, int Rows>
__device__ inline void gemv(const GemvCall& call) {
    int lane = threadIdx.x % 32, warp = blockIdx.x * kWarps + threadIdx.x / 32, wide = (call.n + kOutputs - 1) / kOutputs;
    int first = warp % wide * kOutputs, row = warp / wide * Rows;
    if (row >= call.m) return;
    float sums[kOutputs * Rows] = {};
    for (int column = lane * 8; column < call.k; column += 256) {
        float x[Rows][8];
        read_x(x, call, row, column);
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) {
            int64_t output = min(first + i, call.n - 1);
            float codes[8];
            read_codes<Bits>(codes, call.weight + (output * call.k + column) * Bits / 8);
            float scale = call.groups ? __bfloat162float(call.groups[(output * call.k + column) / 64]) : 1.0f;
#pragma unroll
            for (int j = 0; j < Rows; ++j) {
                float sum = 0;
#pragma unroll
                for (int e = 0; e < 8; ++e) sum = fmaf(codes[e], x[j][e], sum);
                sums[i * Rows + j] = fmaf(sum, scale, sums[i * Rows + j]);
            }
        }
    }
    float own = 0;
#pragma unroll
    for (int i = 0; i < kOutputs * Rows; ++i) {
        for (int step = 16; step; step /= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
        if (i == lane) own = sums[i];
    }
    int output = first + lane / Rows;
    row += lane % Rows;
    if (lane >= kOutputs * Rows || output >= call.n || row >= call.m) return;
    float y = own * (call.rows ? call.rows[output] : 1.0f) + (call.bias ? call.bias[output] : 0.0f);
    if (call.activation != kNone) y = Curve(call.activation)(y);
    call.y[int64_t(row) * call.n + output] = narrow(y);
}

}  // namespace aquatint

#define AQ_GEMV(bits, rows)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        gemv_w##bits##_m##rows(const __grid_constant__ aquatint::GemvCall call) {                                            \
        aquatint::gemv<bits, rows>(call);                                                                                    \
    }
#define AQ_GEMVS(bits) AQ_GEMV(bits, 1) AQ_GEMV(bits, 2) AQ_GEMV(bits, 4) AQ_GEMV(bits, 8)

AQ_GEMVS(4)
AQ_GEMVS(8)
