// Linear layers: y (M, N) of codes (M, K) and a weight (N, K). Two blocks lie on a multiprocessor, where it has memory.
#include "cuda/product_sm80.h"

#define AQ_PRODUCT(name, operands, blocks, slices)                                                                           \
    extern "C" __global__ void __launch_bounds__(256, aquatint::kSharedLeast > 65536 ? blocks : 1)                            \
        name##_s##slices(const __grid_constant__ aquatint::ProductCall call) {                                               \
        aquatint::product<aquatint::operands, slices>(call);                                                                 \
    }
#define AQ_PRODUCTS(name, operands, blocks)                                                                                  \
    AQ_PRODUCT(name, operands, blocks, 0) AQ_PRODUCT(name, operands, blocks, 2) AQ_PRODUCT(name, operands, blocks, 4)

AQ_PRODUCTS(product_w4a8, ByRow<4>, 2)
AQ_PRODUCTS(product_w8a8, ByRow<8>, 1)
AQ_PRODUCTS(product_w4a4, ByGroup<aquatint::EachGroup>, 2)
