// Rows of 128 bytes in shared memory, their chunks of 16 in another order in each of eight, so that a column's banks differ.
#pragma once

#include <cstdint>

namespace aquatint {

// Where 16 bytes lie in such rows.
__device__ inline uint32_t swizzled(uint32_t row, uint32_t chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

}  // namespace aquatint
