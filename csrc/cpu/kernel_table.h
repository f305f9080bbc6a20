// What one call holds, and the list of kernels that each instruction set fills in.
#pragma once

#include <cstdint>

#include "cpu/tasks.h"

namespace aquatint {

enum Activation : int32_t { kNone, kGelu, kGeluTanh, kSilu };

// Vectors, each for `rows` neighbouring rows of a matrix, `stride` numbers apart; with `rows` 0 one for all.
struct Spread {
    const float* values;  // or null
    int64_t rows, stride;

    int64_t place(int64_t row) const { return rows ? row / rows * stride : 0; }
};

struct QuantizeCall {
    const float* x;       // (m, k)
    const float* smooth;  // (k) or null
    const void* down;     // packed words, with tiles bfloat16, or bytes as `branch_bits` says; or null
    const float* down_scales;
    Spread gain, offset;  // of k numbers
    int64_t m, k, rank, group;
    float eps;            // of a layer norm before all else; negative: none
    int32_t activation;   // behind gain and offset
    int32_t bits;         // 4: codes are packed in pairs, scales rounded to bfloat16;  8: neither
    int32_t branch_bits;  // 16, or 8 with wide sums: bytes.h
    int8_t* codes;        // (m, k) or (m, k / 2)
    float* scales;        // (m, k / group)
    float* h;             // (m, rank) or null
    int64_t threads;      // that share the work; no number depends on it
};

// The places that a convolution reads: row (b, y, x) of its product is the image's pixels at
// (y, x) * stride - padding + (tap row, tap column) * dilation. Where `places` are given it is they that say which.
struct Window {
    int64_t height, width, channels;
    int64_t rows, columns;  // of the output
    int64_t taps[2], stride[2], padding[2], dilation[2];
    const int32_t* places;  // (rows * columns, taps): pixels, -1 for none; or null
    int64_t squares;        // of an image, for winograd.h

    int64_t outputs() const { return rows * columns; }
    int64_t seen() const { return taps[0] * taps[1]; }

    // The pixel that an output row sees through a tap, of all images; -1 outside.
    int64_t pixel(int64_t row, int64_t tap) const {
        int64_t image = row / outputs(), output = row % outputs();
        if (places) {
            int64_t place = places[output * seen() + tap];
            return place < 0 ? -1 : image * height * width + place;
        }
        int64_t y = output / columns * stride[0] - padding[0] + tap / taps[1] * dilation[0];
        int64_t x = output % columns * stride[1] - padding[1] + tap % taps[1] * dilation[1];
        bool inside = y >= 0 && y < height && x >= 0 && x < width;
        return inside ? (image * height + y) * width + x : -1;
    }

    // body(tap, pixel) for every tap of an output row that sees a pixel: as above, with a row's place found once.
    template <class F>
    void each_pixel(int64_t row, F&& body) const {
        int64_t image = row / outputs(), output = row % outputs();
        if (places) {
            for (int64_t tap = 0; tap < seen(); ++tap)
                if (int64_t place = places[output * seen() + tap]; place >= 0) body(tap, image * height * width + place);
            return;
        }
        int64_t top = output / columns * stride[0] - padding[0], left = output % columns * stride[1] - padding[1];
        for (int64_t i = 0, y = top, tap = 0; i < taps[0]; ++i, y += dilation[0])
            for (int64_t j = 0, x = left; j < taps[1]; ++j, x += dilation[1], ++tap)
                if (y >= 0 && y < height && x >= 0 && x < width) body(tap, (image * height + y) * width + x);
    }
};

struct GroupAffineCall {
    const float* x;       // (images, pixels, channels)
    const float* weight;  // (channels) or null
    const float* bias;    // (channels) or null
    int64_t images, pixels, channels, groups;
    float eps;
    float* gain;    // (images, channels)
    float* offset;  // (images, channels)
};

struct MovedAffineCall {
    const float *gain, *offset;  // (images, channels): the same for all channels of a group
    const float *before, *now;   // (images, rows, channels)
    int64_t images, rows, channels, groups, places;
    float eps;
    float *new_gain, *new_offset;  // (images, channels)
};

struct ProductCall {
    const void* x;        // codes (m, k) or (m, k / 2); with `bits` 32 floats; with a window (batch, height, width, channels)
    const float* scales;  // (m, scale_groups), of pixels with a window; null with floats
    const uint8_t* weight;
    const float* weight_scales;  // for each of `weight_groups`, which may be one of all with wide sums; of 64 with floats
    const int32_t* wholes;       // of each group, on top of one scale a column; or null. With wide sums alone
    const float* bias;           // packed, or null
    const float* h;              // (m, rank), or (pixels, taps * rank) with a window; null without a branch
    const void* up;              // packed words, with tiles bfloat16, or bytes
    const float* up_scales;      // of each column; of bytes a power of two for each rank
    const Window* window;  // null for a linear
    int64_t m, n, k, rank, scale_groups, weight_groups;
    int32_t bits, weight_bits;
    int32_t branch_bits;  // 16, or 8 with wide sums and without tiles: bytes.h
    int32_t activation;
    int32_t paired;  // weights have 2 n columns, panels of which take turns: y = one times activation(the next). With tiles alone
    Spread gate, residual;  // of n numbers: y = activation(...) * gate + residual; null with floats
    float* y;               // (m, n); null with `next`
    const QuantizeCall* next;  // what alone reads y, to 8 bits with at most smoothing before it; or null. With tiles alone
    int64_t threads;           // that share the work; no number depends on it
};

// A head's rows of `width` numbers: image, head and row are so many numbers apart.
struct Heads {
    const float* values;
    int64_t image, head, row;

    const float* at(int64_t i, int64_t h) const { return values + i * image + h * head; }
};

struct AttentionCall {
    Heads q, k, v;
    int64_t batch, heads, queries, keys, width;
    float scale;
    int32_t bfloat16;  // may what is multiplied be rounded to bfloat16?
    float* y;          // (batch, queries, heads, width)
};

struct LinearCall {
    const float* x;        // (m, k); with a window (images, height, width, channels)
    const void* weight;    // (n, k) in float, or in panels (n / P, k, P); with scales (n, k) in int8
    const float* scales;   // (n) or null
    const float* bias;     // (n) or null
    const Window* window;  // or null
    int64_t m, n, k;
    int32_t panels, activation;
    float* y;  // (m, n)
};

struct RecallCall {
    const void* codes;     // (images, places, width) in `bits`: 4, 8, or 32 for floats
    const void* scales;    // (images, places, width / group): bfloat16 for 4 bits, float for 8
    const int64_t* index;  // (rows): places; null for all in order
    const float* before;   // (images, before_rows, width): what comes before them; or null
    int64_t images, places, rows, before_rows, width, group;
    int32_t bits;
    float* y;  // (images, before_rows + rows, width)
};

// Of each kernel: into how many tasks a call is best cut, and what a thread does: tasks, as long as there are any.
struct KernelTable {
    const char* name;
    int64_t (*columns)();
    bool tiles;      // is this AMX?
    bool wide_sums;  // do products of bytes go into 32 bits? Those of weights in 8 bits need that
    int64_t (*packed_bytes)(int bits, int64_t n, int64_t k);
    void (*pack_weight)(int bits, const void* codes, int64_t n, int64_t k, uint8_t* packed);
    int64_t (*quantize_tasks)(const QuantizeCall&);
    void (*quantize)(const QuantizeCall&, Tasks&);
    int64_t (*product_tasks)(const ProductCall&);
    void (*product)(const ProductCall&, Tasks&);
    int64_t (*group_affine_tasks)(const GroupAffineCall&);
    void (*group_affine)(const GroupAffineCall&, Tasks&);
    int64_t (*attention_tasks)(const AttentionCall&);
    void (*attention)(const AttentionCall&, Tasks&);
    int64_t (*linear_tasks)(const LinearCall&);
    void (*linear)(const LinearCall&, Tasks&);
    int64_t (*depthwise_tasks)(const LinearCall&);
    void (*depthwise)(const LinearCall&, Tasks&);
    int64_t (*winograd_tasks)(const LinearCall&);
    void (*winograd)(const LinearCall&, Tasks&);
    int64_t (*moved_affine_tasks)(const MovedAffineCall&);
    void (*moved_affine)(const MovedAffineCall&, Tasks&);
    int64_t (*recall_tasks)(const RecallCall&);
    void (*recall)(const RecallCall&, Tasks&);
    double (*ceiling)(int kind, int64_t rounds);
};

const KernelTable* plain_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx512_vnni_kernels();
const KernelTable* avx512_amx_kernels();

}  // namespace aquatint
