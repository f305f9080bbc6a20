#include "words.h"
#include "cuda/quantize_sm120.cu"

AQ_KERNELS(AQ_KERNEL(quantize_nvfp4_s0), AQ_KERNEL(quantize_nvfp4_s2), AQ_KERNEL(quantize_nvfp4_s4),
           AQ_KERNEL(quantize_nvfp4_s6))
