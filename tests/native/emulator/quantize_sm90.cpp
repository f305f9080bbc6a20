#include "words.h"
#include "cuda/quantize_sm90.cu"

AQ_KERNELS(AQ_KERNEL(quantize_s0), AQ_KERNEL(quantize_s2), AQ_KERNEL(quantize_s4))
