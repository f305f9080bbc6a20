// Queries and keys: a product whose heads are normed and turned by their positions before they leave the registers.
#include "cuda/product_sm80.h"

AQ_LAYERS(turned, TurnedCall)
