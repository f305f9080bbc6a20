// Queries and keys on Hopper: a product whose heads are normed and turned by their positions before they leave the registers.
#include "cuda/product_sm90.h"

#define AQ_TURNED(bits, tokens, slices)                                                                                      \
    extern "C" __global__ void __launch_bounds__(384, 1) turned_w##bits##_t##tokens##_s##slices(                             \
        const __grid_constant__ aquatint::TensorMap x, const __grid_constant__ aquatint::TurnedCall call) {                  \
        aquatint::product<tokens, bits, slices>(&x, call);                                                                   \
    }
#define AQ_SLICES(bits, tokens) AQ_TURNED(bits, tokens, 0) AQ_TURNED(bits, tokens, 2) AQ_TURNED(bits, tokens, 4)

AQ_SLICES(4, 128) AQ_SLICES(4, 192) AQ_SLICES(4, 224)
AQ_SLICES(8, 128) AQ_SLICES(8, 192) AQ_SLICES(8, 224)
