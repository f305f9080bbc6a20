#include "words.h"
#include "cuda/turned_sm90.cu"

AQ_KERNELS(AQ_KERNEL(turned_w4_t128_s0), AQ_KERNEL(turned_w4_t128_s2), AQ_KERNEL(turned_w4_t128_s4),
           AQ_KERNEL(turned_w4_t192_s0), AQ_KERNEL(turned_w4_t192_s2), AQ_KERNEL(turned_w4_t192_s4),
           AQ_KERNEL(turned_w4_t224_s0), AQ_KERNEL(turned_w4_t224_s2), AQ_KERNEL(turned_w4_t224_s4),
           AQ_KERNEL(turned_w8_t128_s0), AQ_KERNEL(turned_w8_t128_s2), AQ_KERNEL(turned_w8_t128_s4),
           AQ_KERNEL(turned_w8_t192_s0), AQ_KERNEL(turned_w8_t192_s2), AQ_KERNEL(turned_w8_t192_s4),
           AQ_KERNEL(turned_w8_t224_s0), AQ_KERNEL(turned_w8_t224_s2), AQ_KERNEL(turned_w8_t224_s4))
