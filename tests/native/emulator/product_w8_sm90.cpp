#include "words.h"

#define AQ_BITS 8
#include "cuda/product_sm90.cu"

AQ_KERNELS(AQ_KERNEL(product_w8_t128_s0), AQ_KERNEL(product_w8_t192_s0), AQ_KERNEL(product_w8_t224_s0), AQ_KERNEL(product_w8_t256_s0),
           AQ_KERNEL(product_w8_t128_s2), AQ_KERNEL(product_w8_t192_s2), AQ_KERNEL(product_w8_t224_s2), AQ_KERNEL(product_w8_t256_s2),
           AQ_KERNEL(product_w8_t128_s4), AQ_KERNEL(product_w8_t192_s4), AQ_KERNEL(product_w8_t224_s4))
