// Linear layers on Hopper: y (M, N) of codes (M, K) and a weight (N, K), in tiles of so many tokens.
#include "cuda/product_sm90.h"

#ifndef AQ_BITS
#define AQ_BITS 4
#endif
#define AQ_NAMED(bits, tokens, slices)                                                                                       \
    extern "C" __global__ void __launch_bounds__(384, 1) product_w##bits##_t##tokens##_s##slices(                            \
        const __grid_constant__ aquatint::TensorMap x, const __grid_constant__ aquatint::ProductCall call) {                 \
        aquatint::product<tokens, bits, slices>(&x, call);                                                                   \
    }
#define AQ_OF(bits, tokens, slices) AQ_NAMED(bits, tokens, slices)
#define AQ_PRODUCT(tokens, slices) AQ_OF(AQ_BITS, tokens, slices)
#define AQ_PRODUCTS(slices) AQ_PRODUCT(128, slices) AQ_PRODUCT(192, slices) AQ_PRODUCT(224, slices)

#ifdef AQ_T
AQ_PRODUCT(AQ_T, 2)
#else
AQ_PRODUCTS(0) AQ_PRODUCT(256, 0)
AQ_PRODUCTS(2) AQ_PRODUCT(256, 2)
AQ_PRODUCTS(4)  // with 256 tokens there are too few registers
#endif
