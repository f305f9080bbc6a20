// Quantizing to 8 bits with a scale for each row, and to 4 with one for 64 neighbours.
#include "cuda/quantize_sm80.h"

#define AQ_QUANTIZE(name, format, slices)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256, slices > 4 ? 1 : 2)                                                    \
        quantize_##name##_s##slices(const __grid_constant__ aquatint::QuantizeCall call) {                                   \
        aquatint::quantize<aquatint::format, slices>(call);                                                                  \
    }
#define AQ_QUANTIZES(name, format)                                                                                           \
    AQ_QUANTIZE(name, format, 0) AQ_QUANTIZE(name, format, 2) AQ_QUANTIZE(name, format, 4)                                   \
    AQ_QUANTIZE(name, format, 6)  // nine taps of a convolution

AQ_QUANTIZES(a8, Bytes)
AQ_QUANTIZES(a4, Nibbles)
