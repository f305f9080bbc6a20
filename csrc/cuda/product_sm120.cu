// Linear layers in nvfp4: the tensor cores scale each sixteen along K themselves, so nothing is left to do between products.
#include "cuda/blackwell.h"
#include "cuda/product_sm80.h"

namespace aquatint {

// Four scales a word, one for each sixteen; of a token they lie behind four bytes, its own scale in float32.
struct EachSixteen {
    using Word = uint32_t;
    using Tokens = uint32_t;
    static constexpr bool kScaled = false;
    static constexpr int kWeightBytes = 4;

    __device__ static const uint8_t* row(const ProductCall& call, int token) {
        return static_cast<const uint8_t*>(call.x_scales) + int64_t(token) * (4 + call.k / 16);
    }

    __device__ static uint32_t of_token(const ProductCall& call, int token, int group) {
        return reinterpret_cast<const uint32_t*>(row(call, token) + 4)[group];
    }

    __device__ static uint32_t of_tokens(const uint32_t* scales, int lane) { return scales[lane / 4]; }

    __device__ static uint32_t of_outputs(const uint8_t* scales, int place, int lane) {
        return reinterpret_cast<const uint32_t*>(scales)[place * 16 + lane % 2 * 8 + lane / 4];
    }

    __device__ static float of_row(const ProductCall& call, int token) {
        return *reinterpret_cast<const float*>(row(call, token));
    }

    __device__ static void add(float (&sum)[4], const uint4& a, uint32_t b_low, uint32_t b_high, uint32_t w, uint32_t x) {
        product_of_scaled(sum, a, b_low, b_high, w, x);
    }
};

}  // namespace aquatint

#define AQ_PRODUCT(slices)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                     \
        product_nvfp4_s##slices(const __grid_constant__ aquatint::ProductCall call) {                                        \
        aquatint::product<aquatint::ByGroup<aquatint::EachSixteen>, slices>(call);                                           \
    }

AQ_PRODUCT(0)
AQ_PRODUCT(2)
AQ_PRODUCT(4)
