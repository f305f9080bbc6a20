// Quantizing to nvfp4: e2m1, sixteen neighbours with a scale in e4m3, and a row's in float32 on top.
#include "cuda/blackwell.h"
#include "cuda/quantize_sm80.h"

namespace aquatint {

// Of a row the scales are stored one behind another: four bytes, and one for each sixteen columns.
struct BlockScaled {
    static constexpr bool kByRow = true;

    __device__ static uint8_t* scales_of(const QuantizeCall& call, int row) {
        return static_cast<uint8_t*>(call.scales) + int64_t(row) * (4 + call.k / 16);
    }

    __device__ static float2 scale(const QuantizeCall& call, int row, float largest) {
        float scale = fmaxf(largest / 6.0f, kSmallestScale) / 448.0f;
        if (row < call.m) *reinterpret_cast<float*>(scales_of(call, row)) = scale;
        return {scale, 0.0f};
    }

    // Sixteen columns are two lanes'.
    __device__ static void put(const QuantizeCall& call, int row, int column, const Eight& eight, float2 scale) {
        float largest = eight.largest();
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        uint8_t small = e4m3(fmaxf(largest / 6.0f / scale.x, 0x1p-9f));
        float by = 1.0f / (float_of_e4m3(small) * scale.x);
        uint32_t codes = 0;
#pragma unroll
        for (int i = 0; i < 8; i += 2) codes |= two_e2m1(eight.v[i] * by, eight.v[i + 1] * by) << (4 * i);
        if (row >= call.m) return;
        *reinterpret_cast<uint32_t*>(call.codes + (int64_t(row) * call.k + column) / 2) = codes;
        if (column % 16 == 0) scales_of(call, row)[4 + column / 16] = small;
    }
};

}  // namespace aquatint

#define AQ_QUANTIZE(slices)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, slices > 4 ? 1 : 2)                                                    \
        quantize_nvfp4_s##slices(const __grid_constant__ aquatint::QuantizeCall call) {                                      \
        aquatint::quantize<aquatint::BlockScaled, slices>(call);                                                             \
    }

AQ_QUANTIZE(0)
AQ_QUANTIZE(2)
AQ_QUANTIZE(4)
AQ_QUANTIZE(6)
