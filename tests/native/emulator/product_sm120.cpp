#include "words.h"
#include "cuda/product_sm120.cu"

AQ_KERNELS(AQ_KERNEL(product_nvfp4_s0), AQ_KERNEL(product_nvfp4_s2), AQ_KERNEL(product_nvfp4_s4))
