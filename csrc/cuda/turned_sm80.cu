// Queries and keys: a product whose heads are normed and turned by their positions before they leave the registers.
#include "cuda/product_sm80.h"

#define AQ_TURNED(name, operands, blocks, slices)                                                                            \
    extern "C" __global__ void __launch_bounds__(256, aquatint::kSharedLeast > 65536 ? blocks : 1)                            \
        turned_##name##_s##slices(const __grid_constant__ aquatint::TurnedCall call) {                                       \
        aquatint::product<aquatint::operands, slices>(call);                                                                 \
    }
#define AQ_SLICES(name, operands, blocks)                                                                                    \
    AQ_TURNED(name, operands, blocks, 0) AQ_TURNED(name, operands, blocks, 2) AQ_TURNED(name, operands, blocks, 4)

AQ_SLICES(w4a8, ByRow<4>, 2)
AQ_SLICES(w8a8, ByRow<8>, 1)
AQ_SLICES(w4a4, ByGroup<aquatint::EachGroup>, 2)
