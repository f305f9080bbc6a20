// y = x cos + turned(x) sin, for pairs of neighbours (a, b) turned to (-b, a), behind an RMS norm of each head's row.
#include "cuda/eight.h"
#include "cuda/rotary_call.h"

namespace aquatint {

__device__ inline void norm(Eight& eight, const RotaryCall& call, int column, bool there) {
    float sum = 0;
    for (float v : eight.v) sum += v * v;
    for (int step = call.group / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    float by = rsqrtf(sum / call.width + call.eps);
    for (float& v : eight.v) v *= by;
    if (call.weight && there) eight.times(Eight(call.weight + column));
    eight = Eight(eight.numbers());  // as the norm by itself leaves it
}

__device__ inline Eight angles(const float* of, int64_t place, bool by_pairs) {
    if (!by_pairs) return Eight(of + place);
    float4 four = *reinterpret_cast<const float4*>(of + place / 2);
    Eight both(0.0f);
#pragma unroll
    for (int i = 0; i < 2; ++i)
        both.v[i] = four.x, both.v[2 + i] = four.y, both.v[4 + i] = four.z, both.v[6 + i] = four.w;
    return both;
}

__device__ inline void rotary(const RotaryCall& call) {
    int thread = blockIdx.x * 256 + threadIdx.x, row = thread / call.group, column = thread % call.group * 8;
    bool there = row < call.rows && column < call.width;
    int64_t place = there ? int64_t(row) * call.width + column : 0;
    Eight x(there ? *reinterpret_cast<const uint4*>(call.x + place) : uint4{0, 0, 0, 0});
    if (call.eps >= 0) norm(x, call, column, there);
    if (!there) return;
    int64_t angle = int64_t(row / call.heads % call.tokens) * call.width + column;
    Eight cos = angles(call.cos, angle, call.by_pairs), sin = angles(call.sin, angle, call.by_pairs), y(0.0f);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        y.v[i] = x.v[i] * cos.v[i] - x.v[i + 1] * sin.v[i];
        y.v[i + 1] = x.v[i + 1] * cos.v[i + 1] + x.v[i] * sin.v[i + 1];
    }
    *reinterpret_cast<uint4*>(call.y + place) = y.numbers();
}

}  // namespace aquatint

extern "C" __global__ void __launch_bounds__(256) rotary(const __grid_constant__ aquatint::RotaryCall call) {
    aquatint::rotary(call);
}
