// Linear layers in nvfp4: the tensor cores scale each sixteen along K themselves, so nothing is left to do between products.
#include "cuda/blackwell.h"
#include "cuda/product_sm80.h"

namespace aquatint {

// A block of a weight: as in ByGroup, and behind its codes a word of four scales for each 64 along K and row.
struct ByBlock {
    using Sum = float;
    static constexpr bool kScaled = false;
    static constexpr int kGroups = 4, kCodes = kTile * 128, kBlock = kCodes + kGroups * kTile * 4;
    static constexpr int kScales = kTokens + kBlock, kStage = kScales + kGroups * kTile * 4;

    const ProductCall& call;
    int m, n;
    Warp warp = {};
    uint32_t own[kGroups] = {};  // the scales of a token, on their way to the stage

    __device__ const uint8_t* scales_of(int row) const {
        return static_cast<const uint8_t*>(call.x_scales) + int64_t(row) * (4 + call.k / 16);
    }

    __device__ void fetch(uint8_t* stage, int depth) {
        fetch_tokens(stage, call, m * kTile, call.k / 2, depth);
        fetch_weight<kBlock>(stage + kTokens, call, n, depth);
        if (threadIdx.x >= kTile) return;
        int token = m * kTile + int(threadIdx.x);
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
            int group = depth * kGroups + i;
            bool there = token < call.m && group < call.k / 64;
            own[i] = there ? reinterpret_cast<const uint32_t*>(scales_of(token) + 4)[group] : 0;
        }
    }

    __device__ void settle(uint8_t* stage) const {
        if (threadIdx.x >= kTile) return;
#pragma unroll
        for (int i = 0; i < kGroups; ++i) reinterpret_cast<uint32_t*>(stage + kScales)[i * kTile + threadIdx.x] = own[i];
    }

    __device__ void multiply(float (&sums)[kParts][16], const uint8_t* stage, int) const {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
            uint4 x[kTiles / 2];
            uint32_t x_scale[kTiles];
#pragma unroll
            for (int i = 0; i < kTiles / 2; ++i)
                x[i] = load_matrices(stage + swizzled(warp.tokens + i * 16 + warp.lane / 16 * 8 + warp.lane % 8,
                                                      group * 2 + warp.lane / 8 % 2));
            auto* scales = reinterpret_cast<const uint32_t*>(stage + kScales) + group * kTile + warp.tokens + warp.lane / 4;
#pragma unroll
            for (int i = 0; i < kTiles; ++i) x_scale[i] = scales[i * 8];
#pragma unroll
            for (int part = 0; part < kParts; ++part) {
                int place = (group * 2 + warp.group) * kParts + part;
                uint4 a = reinterpret_cast<const uint4*>(stage + kTokens)[place * 32 + warp.lane];
                auto* w_scales = reinterpret_cast<const uint32_t*>(stage + kTokens + kCodes) + place * 16;
                uint32_t w_scale = w_scales[warp.lane % 2 * 8 + warp.lane / 4];
#pragma unroll
                for (int i = 0; i < kTiles; ++i) {
                    auto& sum = reinterpret_cast<float(&)[4]>(sums[part][4 * i]);
                    uint4 two = x[i / 2];
                    product_of_scaled(sum, a, i % 2 ? two.z : two.x, i % 2 ? two.w : two.y, w_scale, x_scale[i]);
                }
            }
        }
    }

    __device__ float row_scale(int row) const { return *reinterpret_cast<const float*>(scales_of(row)); }

    __device__ uint4 branch(int row, int rank) const { return branch_of(call, row, rank); }
};

}  // namespace aquatint

#define AQ_PRODUCT(slices)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                     \
        product_nvfp4_s##slices(const __grid_constant__ aquatint::ProductCall call) {                                        \
        aquatint::product<aquatint::ByBlock, slices>(call);                                                                  \
    }

AQ_PRODUCT(0)
AQ_PRODUCT(2)
AQ_PRODUCT(4)
