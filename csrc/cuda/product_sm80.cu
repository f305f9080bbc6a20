// Linear layers: y (M, N) of codes (M, K) and a weight (N, K).
#include "cuda/product_sm80.h"

AQ_LAYERS(product, ProductCall)
