#include "words.h"
#include "cuda/moments_sm80.cu"

AQ_KERNELS(AQ_KERNEL(moments), AQ_KERNEL(affine))
