#include "words.h"
#include "cuda/rotary_sm80.cu"

AQ_KERNELS(AQ_KERNEL(rotary))
