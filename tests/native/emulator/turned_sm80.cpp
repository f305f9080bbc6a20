#include "words.h"
#include "cuda/turned_sm80.cu"

AQ_KERNELS(AQ_KERNEL(turned_w4a8_s0), AQ_KERNEL(turned_w4a8_s2), AQ_KERNEL(turned_w4a8_s4), AQ_KERNEL(turned_w8a8_s0),
           AQ_KERNEL(turned_w8a8_s2), AQ_KERNEL(turned_w8a8_s4), AQ_KERNEL(turned_w4a4_s0), AQ_KERNEL(turned_w4a4_s2),
           AQ_KERNEL(turned_w4a4_s4))
