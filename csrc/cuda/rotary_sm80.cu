// y = x cos + turned(x) sin, for pairs (a, b) turned to (-b, a), neighbours or a half apart, behind an RMS norm of each head's row.
#include "cuda/eight.h"
#include "cuda/rotary_call.h"

namespace aquatint {

__device__ inline float norm_of(const Eight& eight, const RotaryCall& call) {
    float sum = 0;
    for (float v : eight.v) sum += v * v;
    for (int step = call.group / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    return rsqrtf(sum / call.width + call.eps);
}

// Eight numbers of a row, as the norm by itself leaves them.
__device__ inline Eight normed(Eight eight, const RotaryCall& call, float by, int column) {
    if (call.eps < 0) return eight;
    for (float& v : eight.v) v *= by;
    if (call.weight) eight.times(Eight(call.weight + column));
    return Eight(eight.numbers());
}

__device__ inline Eight eight_at(const RotaryCall& call, int row, int column) {
    return Eight(*reinterpret_cast<const uint4*>(call.x + int64_t(row) * call.width + column));
}

__device__ inline Eight turned(const Eight& x) {
    Eight other(0.0f);
#pragma unroll
    for (int i = 0; i < 8; i += 2) other.v[i] = -x.v[i + 1], other.v[i + 1] = x.v[i];
    return other;
}

// What stands half a row away.
__device__ inline Eight turned_by_halves(const RotaryCall& call, int row, int column, float by) {
    int half = call.width / 2, away = column < half ? column + half : column - half;
    Eight other = normed(eight_at(call, row, away), call, by, away);
    if (column < half)
        for (float& v : other.v) v = -v;
    return other;
}

__device__ inline Eight angles(const float* of, const RotaryCall& call, int64_t token, int column) {
    if (!call.by_pairs) return Eight(of + token * call.width + column);
    int half = call.width / 2;
    if (call.by_halves) return Eight(of + token * half + column % half);
    float4 four = *reinterpret_cast<const float4*>(of + token * half + column / 2);
    Eight both(0.0f);
#pragma unroll
    for (int i = 0; i < 2; ++i)
        both.v[i] = four.x, both.v[2 + i] = four.y, both.v[4 + i] = four.z, both.v[6 + i] = four.w;
    return both;
}

__device__ inline void rotary(const RotaryCall& call) {
    int thread = blockIdx.x * 256 + threadIdx.x, row = thread / call.group, column = thread % call.group * 8;
    bool there = row < call.rows && column < call.width;
    Eight x = there ? eight_at(call, row, column) : Eight(0.0f);
    float by = call.eps < 0 ? 1 : norm_of(x, call);
    if (!there) return;
    x = normed(x, call, by, column);
    Eight other = call.by_halves ? turned_by_halves(call, row, column, by) : turned(x);
    int token = row / call.heads % call.tokens;
    Eight cos = angles(call.cos, call, token, column), sin = angles(call.sin, call, token, column);
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = x.v[i] * cos.v[i] + other.v[i] * sin.v[i];
    *reinterpret_cast<uint4*>(call.y + int64_t(row) * call.width + column) = x.numbers();
}

}  // namespace aquatint

extern "C" __global__ void __launch_bounds__(256) rotary(const __grid_constant__ aquatint::RotaryCall call) {
    aquatint::rotary(call);
}
