// Linear layers: y (M, N) of codes (M, K) and a weight (N, K). Two blocks lie on a multiprocessor.
#include "cuda/product_sm80.h"

#define AQ_PRODUCT(name, operands, slices)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 2) name##_s##slices(const __grid_constant__ aquatint::ProductCall call) { \
        aquatint::product<aquatint::operands, slices>(call);                                                                 \
    }
#define AQ_PRODUCTS(name, operands) AQ_PRODUCT(name, operands, 0) AQ_PRODUCT(name, operands, 2) AQ_PRODUCT(name, operands, 4)

AQ_PRODUCTS(product_w4a8, ByRow<4>)
AQ_PRODUCTS(product_w8a8, ByRow<8>)
AQ_PRODUCTS(product_w4a4, ByGroup)
