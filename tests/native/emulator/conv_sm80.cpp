#include "words.h"
#include "cuda/conv_sm80.cu"

AQ_KERNELS(AQ_KERNEL(conv_w4a8_s0), AQ_KERNEL(conv_w4a8_s2), AQ_KERNEL(conv_w4a8_s4), AQ_KERNEL(conv_w8a8_s0),
           AQ_KERNEL(conv_w8a8_s2), AQ_KERNEL(conv_w8a8_s4), AQ_KERNEL(conv_w4a4_s0), AQ_KERNEL(conv_w4a4_s2),
           AQ_KERNEL(conv_w4a4_s4))
