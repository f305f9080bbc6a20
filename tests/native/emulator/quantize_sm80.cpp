#include "words.h"
#include "cuda/quantize_sm80.cu"

AQ_KERNELS(AQ_KERNEL(quantize_a8_s0), AQ_KERNEL(quantize_a8_s2), AQ_KERNEL(quantize_a8_s4), AQ_KERNEL(quantize_a8_s6), AQ_KERNEL(quantize_a4_s0),
           AQ_KERNEL(quantize_a4_s2), AQ_KERNEL(quantize_a4_s4), AQ_KERNEL(quantize_a4_s6))
