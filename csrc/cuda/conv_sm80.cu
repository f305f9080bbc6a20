// Convolutions as implicit products: a token is a pixel of the output, and K goes over the taps, channels within.
//
// y (B H' W', O) of codes (B, H, W, C) with a scale for each pixel and a weight (O, kh, kw, C) with one for each output and
// tap; so each tap is a sum of integers, which is scaled and joins a sum in float32. Where both are codes of 4 bits with a scale
// for each 64 of them, it is a product of groups, one tap's behind the other's.
#include "cuda/conv_call.h"
#include "cuda/product_sm80.h"

namespace aquatint {

// Where a thread's rows of a tile look from, 16 bytes of each, and the token whose scales it brings.
struct Looking {
    static constexpr int kRows = kTile * 8 / kThreads;

    ConvCall::Place rows[kRows], token;

    __device__ Looking(const ConvCall& call, int m) : token(call.place(m * kTile + int(threadIdx.x) % kTile)) {
        for (int i = 0; i < kRows; ++i) rows[i] = call.place(m * kTile + int(threadIdx.x) / 8 + i * (kThreads / 8));
    }

    __device__ static int place(int row, int chunk) { return swizzled(threadIdx.x / 8 + row * (kThreads / 8), chunk); }
};

// What the pixels that the taps see give to the branch, each through its own tap.
__device__ inline uint4 branch_by_taps(const ConvCall& call, int row, int rank) {
    ConvCall::Place place = call.place(row);
    int taps = call.kernel_height * call.kernel_width;
    Eight sum(0.0f);
    for (int tap = 0; tap < taps; ++tap) {
        int pixel = call.seen(place, tap);
        if (pixel < 0) continue;
        Eight h(call.h + (int64_t(pixel) * taps + tap) * call.rank + rank);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] += h.v[i];
    }
    return sum.numbers();
}

template <int Bits>
struct ByTap {
    using Sum = float;
    static constexpr bool kScaled = true;
    static constexpr int kScales = kTokens + Weight<Bits>::kBlock, kStage = kScales + kTile * 4;

    const ConvCall& call;
    int m, n;
    Warp warp = {};
    Looking from;
    float own = 0;  // the scale of what the token sees, on its way to the stage
    int sums[kParts][16] = {};

    __device__ ByTap(const ConvCall& call, int m, int n) : call(call), m(m), n(n), from(call, m) {}

    __device__ void fetch(uint8_t* stage, int depth) {
        int tap = depth / call.depths, chunk = threadIdx.x % 8, byte = depth % call.depths * 128 + chunk * 16;
#pragma unroll
        for (int i = 0; i < Looking::kRows; ++i) {
            int pixel = byte < call.channels ? call.seen(from.rows[i], tap) : -1;
            const uint8_t* codes = pixel < 0 ? call.codes : call.codes + int64_t(pixel) * call.channels + byte;
            copy_16(stage + Looking::place(i, chunk), codes, pixel >= 0);
        }
        fetch_weight<Weight<Bits>::kBlock>(stage + kTokens, call, n, depth);
        if (threadIdx.x >= kTile) return;
        int pixel = call.seen(from.token, tap);
        own = pixel < 0 ? 0.0f : static_cast<const float*>(call.x_scales)[pixel];
    }

    __device__ void settle(uint8_t* stage) const {
        if (threadIdx.x < kTile) reinterpret_cast<float*>(stage + kScales)[threadIdx.x] = own;
    }

    __device__ void multiply(float (&y)[kParts][16], const uint8_t* stage, int depth) {
        multiply_bytes<Bits>(sums, stage, 0, warp);
        if (call.channels - depth % call.depths * 128 > 64) multiply_bytes<Bits>(sums, stage, 1, warp);
        if ((depth + 1) % call.depths == 0) scale(y, stage, depth / call.depths);
    }

    __device__ void scale(float (&y)[kParts][16], const uint8_t* stage, int tap) {
        auto* x_scales = reinterpret_cast<const float*>(stage + kScales) + warp.tokens + warp.lane % 4 * 2;
        const float* w_scales = call.tap_scales + (int64_t(tap) * call.n_tiles + n) * kTile + warp.group * 64 + warp.lane / 4;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            float2 w = {w_scales[part * 16], w_scales[part * 16 + 8]};
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                float by = (i % 4 < 2 ? w.x : w.y) * x_scales[i / 4 * 8 + i % 2];
                y[part][i] = fmaf(float(sums[part][i]), by, y[part][i]);
                sums[part][i] = 0;
            }
        }
    }

    __device__ float row_scale(int) const { return 1.0f; }

    __device__ uint4 branch(int row, int rank) const { return branch_by_taps(call, row, rank); }
};

// Codes of 4 bits: groups of 64 follow each other over the taps, four a stage, wherever a tap ends.
struct ByTapGroup : Groups<EachGroup> {
    const ConvCall& call;
    int m, n, groups;  // of a pixel, of 32 bytes
    Looking from;

    __device__ ByTapGroup(const ConvCall& call, int m, int n) : call(call), m(m), n(n), groups(call.channels / 32), from(call, m) {}

    // The group that is seen from there, counted over the whole image, or -1.
    __device__ int64_t seen(const ConvCall::Place& place, int group) const {
        int tap = group / groups;
        int pixel = tap < call.kernel_height * call.kernel_width ? call.seen(place, tap) : -1;
        return pixel < 0 ? -1 : int64_t(pixel) * groups + group - tap * groups;
    }

    __device__ void fetch(uint8_t* stage, int depth) {
        int chunk = threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < Looking::kRows; ++i) {
            int64_t group = seen(from.rows[i], depth * kGroups + chunk / 2);
            const uint8_t* codes = group < 0 ? call.codes : call.codes + group * 32 + chunk % 2 * 16;
            copy_16(stage + Looking::place(i, chunk), codes, group >= 0);
        }
        fetch_weight<kBlock>(stage + kTokens, call, n, depth);
        if (threadIdx.x >= kTile) return;
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
            int64_t group = seen(from.token, depth * kGroups + i);
            own[i] = group < 0 ? 0.0f : EachGroup::of_group(call, group);
        }
    }

    __device__ float row_scale(int) const { return 1.0f; }

    __device__ uint4 branch(int row, int rank) const { return branch_by_taps(call, row, rank); }
};

}  // namespace aquatint

#define AQ_CONV(name, operands, slices)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                     \
        name##_s##slices(const __grid_constant__ aquatint::ConvCall call) {                                                  \
        aquatint::product<aquatint::operands, slices>(call);                                                                 \
    }
#define AQ_CONVS(name, operands) AQ_CONV(name, operands, 0) AQ_CONV(name, operands, 2) AQ_CONV(name, operands, 4)

AQ_CONVS(conv_w4a8, ByTap<4>)
AQ_CONVS(conv_w8a8, ByTap<8>)
AQ_CONVS(conv_w4a4, ByTapGroup)
