#include "words.h"
#include "cuda/gemv_sm80.cu"

AQ_KERNELS(AQ_KERNEL(gemv_w4_m1), AQ_KERNEL(gemv_w4_m2), AQ_KERNEL(gemv_w4_m4), AQ_KERNEL(gemv_w4_m8), AQ_KERNEL(gemv_w8_m1),
           AQ_KERNEL(gemv_w8_m2), AQ_KERNEL(gemv_w8_m4), AQ_KERNEL(gemv_w8_m8))
