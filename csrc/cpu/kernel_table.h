// What one call holds, and the list of kernels that each instruction set fills in.
#pragma once

#include <cstdint>

namespace aquatint {

struct QuantizeCall {
    const float* x;       // (m, k)
    const float* smooth;  // (k) or null
    const float* down;    // packed, or null
    int64_t m, k, rank, group;
    int32_t bits;    // 4: codes are packed in pairs, scales rounded to bfloat16;  8: neither
    int8_t* codes;   // (m, k) or (m, k / 2)
    float* scales;   // (m, k / group)
    float* h;        // (m, rank) or null
};

struct LinearCall {
    const int8_t* codes;  // (m, k) or (m, k / 2), as quantize leaves them
    const float* scales;  // (m, scale_groups)
    const uint8_t* weight;
    const float* weight_scales;
    const float* bias;  // packed, or null
    const float* h;     // (m, rank)
    const float* up;    // packed
    int64_t m, n, k, rank, scale_groups;
    int32_t bits;
    int8_t* bytes;  // scratch (m, k)
    int32_t* sums;  // scratch (m, k / 64)
    float* y;       // (m, n)
};

struct KernelTable {
    const char* name;
    int (*columns)();
    int64_t (*packed_bytes)(int64_t n, int64_t k);
    void (*pack_weight)(const uint8_t* codes, int64_t n, int64_t k, uint8_t* packed);
    void (*quantize)(const QuantizeCall&, int64_t first_row, int64_t last_row);
    void (*prepare)(const LinearCall&, int64_t first_row, int64_t last_row);
    void (*linear)(const LinearCall&, int64_t first_panel, int64_t last_panel);
    int64_t (*panels)(int64_t n);
};

const KernelTable* plain_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();

}  // namespace aquatint
