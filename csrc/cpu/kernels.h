// Quantize and 4-bit linear, written once over a small vector type and compiled once for each instruction set.
//
//   quantize   x (M, K) * smooth (K) -> codes, scales, and h (M, r) = (x * smooth) down^T in one read of x
//   linear     y (M, N) = sum over groups of  scale_x scale_w (codes_x . codes_w)  +  h up^T  +  bias
//
// Layouts made by `pack` (one panel is P = 2 * width output columns, G = K / 64 groups):
//   weight   (N/P, K/4, P/2 * 4 bytes): a byte holds column j in its low and column j + P/2 in its high nibble,
//            as code + 8, so that the unsigned operand of vpdpbusd takes it; four neighbours in k lie together
//   scales   (N/P, G, P) float;  up (N/P, r, P) float;  bias (N/P, P) float
//
// The + 8 is taken back by 8 * (sum of the row's codes in the group), computed once a row. Sums inside a group are
// exact int32; groups are added in float32 in ascending order, whatever the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/codec.h"
#include "cpu/kernel_table.h"

namespace aquatint {

constexpr int kGroup = 64;

template <class V>
struct Kernels {
    static constexpr int kColumns = 2 * V::width;

    static int64_t panels(int64_t n) { return (n + kColumns - 1) / kColumns; }

    static int64_t packed_bytes(int64_t n, int64_t k) { return panels(n) * kColumns * k / 2; }

    static int columns() { return kColumns; }

    static void pack_weight(const uint8_t* codes, int64_t n, int64_t k, uint8_t* packed) {
        auto code = [&](int64_t row, int64_t column) {
            if (row >= n) return 8;
            uint8_t pair = codes[(row * k + column) / 2];
            return (column % 2 ? high_code(pair) : low_code(pair)) + 8;
        };
        for (int64_t panel = 0; panel < panels(n); ++panel)
            for (int64_t k4 = 0; k4 < k / 4; ++k4)
                for (int j = 0; j < V::width; ++j)
                    for (int i = 0; i < 4; ++i) {
                        int64_t row = panel * kColumns + j;
                        *packed++ = uint8_t(code(row, k4 * 4 + i) | code(row + V::width, k4 * 4 + i) << 4);
                    }
    }

    // Rows [first, last) of quantize.
    static void quantize(const QuantizeCall& call, int64_t first, int64_t last) {
        std::vector<float> smoothed(call.k);
        std::vector<int8_t> codes(call.k);
        for (int64_t row = first; row < last; ++row) {
            const float* x = call.x + row * call.k;
            if (call.smooth) {
                for (int64_t i = 0; i < call.k; ++i) smoothed[i] = x[i] * call.smooth[i];
                x = smoothed.data();
            }
            int64_t groups = call.k / call.group;
            for (int64_t g = 0; g < groups; ++g)
                call.scales[row * groups + g] = encode(x + g * call.group, call, codes.data() + g * call.group);
            store(codes.data(), call, row);
            if (call.h) project(x, call, row);
        }
    }

    static float encode(const float* x, const QuantizeCall& call, int8_t* codes) {
        uint32_t largest = 0;  // compared as bits: so a NaN is the largest of all and reaches the scale
        for (int64_t i = 0; i < call.group; ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
        float maximum = call.bits == 4 ? 7.0f : 127.0f;
        float scale = group_scale(float_of(largest), maximum);
        if (call.bits == 4) scale = bfloat16_to_float(float_to_bfloat16(scale));
        float inverse = 1.0f / scale;
        for (int64_t i = 0; i < call.group; ++i)
            codes[i] = int8_t(std::max(-maximum, std::min(maximum, std::nearbyint(x[i] * inverse))));
        return scale;
    }

    static void store(const int8_t* codes, const QuantizeCall& call, int64_t row) {
        if (call.bits == 8) {
            std::memcpy(call.codes + row * call.k, codes, call.k);
            return;
        }
        auto* out = reinterpret_cast<uint8_t*>(call.codes) + row * call.k / 2;
        for (int64_t i = 0; i < call.k; i += 2) out[i / 2] = pack_codes(codes[i], codes[i + 1]);
    }

    // h[row] = x down^T, with down packed as (r / P, K, P).
    static void project(const float* x, const QuantizeCall& call, int64_t row) {
        for (int64_t panel = 0; panel < panels(call.rank); ++panel) {
            const float* down = call.down + panel * call.k * kColumns;
            auto low = V::zero(), high = V::zero();
            for (int64_t i = 0; i < call.k; ++i) {
                auto value = V::set(x[i]);
                low = V::fma(value, V::load(down + i * kColumns), low);
                high = V::fma(value, V::load(down + i * kColumns + V::width), high);
            }
            float sums[kColumns];
            V::store(sums, low);
            V::store(sums + V::width, high);
            int64_t count = std::min<int64_t>(kColumns, call.rank - panel * kColumns);
            std::copy(sums, sums + count, call.h + row * call.rank + panel * kColumns);
        }
    }

    // Rows [first, last): codes as bytes, and 8 * their sum in each group.
    static void prepare(const LinearCall& call, int64_t first, int64_t last) {
        int64_t groups = call.k / kGroup;
        for (int64_t row = first; row < last; ++row) {
            int8_t* bytes = call.bytes + row * call.k;
            if (call.bits == 8) {
                std::memcpy(bytes, call.codes + row * call.k, call.k);
            } else {
                auto* pairs = reinterpret_cast<const uint8_t*>(call.codes) + row * call.k / 2;
                for (int64_t i = 0; i < call.k / 2; ++i) {
                    bytes[2 * i] = int8_t(low_code(pairs[i]));
                    bytes[2 * i + 1] = int8_t(high_code(pairs[i]));
                }
            }
            for (int64_t g = 0; g < groups; ++g) {
                int32_t sum = 0;
                for (int i = 0; i < kGroup; ++i) sum += bytes[g * kGroup + i];
                call.sums[row * groups + g] = 8 * sum;
            }
        }
    }

    // Panels [first, last) of linear.
    static void linear(const LinearCall& call, int64_t first, int64_t last) {
        std::vector<uint8_t> unpacked(call.k * kColumns);
        for (int64_t panel = first; panel < last; ++panel) {
            unpack(call.weight + panel * kColumns * call.k / 2, call.k, unpacked.data());
            for (int64_t row = 0; row < call.m; row += V::rows) tile_of(call.m - row)(call, panel, row, unpacked.data());
        }
    }

    static void unpack(const uint8_t* packed, int64_t k, uint8_t* bytes) {
        constexpr int half = V::width * 4;
        for (int64_t k4 = 0; k4 < k / 4; ++k4, packed += half, bytes += 2 * half)
            for (int i = 0; i < half; ++i) {
                bytes[i] = packed[i] & 15;
                bytes[half + i] = packed[i] >> 4;
            }
    }

    using Tile = void (*)(const LinearCall&, int64_t, int64_t, const uint8_t*);

    static Tile tile_of(int64_t rows) { return tile_from<V::rows>(rows); }

    template <int R>
    static Tile tile_from(int64_t rows) {
        if constexpr (R > 1) {
            return rows >= R ? &tile<R> : tile_from<R - 1>(rows);
        } else {
            return &tile<1>;
        }
    }

    // R rows by one panel.
    template <int R>
    static void tile(const LinearCall& call, int64_t panel, int64_t row, const uint8_t* weight) {
        int64_t groups = call.k / kGroup;
        alignas(64) float sums[R][kColumns] = {};
        for (int64_t g = 0; g < groups; ++g) {
            typename V::Int low[R], high[R];
            for (int r = 0; r < R; ++r) low[r] = high[r] = V::zero_int();
            const int8_t* bytes = call.bytes + row * call.k + g * kGroup;
            const uint8_t* w = weight + g * kGroup * kColumns;
            for (int k = 0; k < kGroup; k += 4, w += 4 * kColumns) {
                auto w_low = V::load_bytes(w), w_high = V::load_bytes(w + 4 * V::width);
                for (int r = 0; r < R; ++r) {
                    auto x = V::set_four(bytes + r * call.k + k);
                    low[r] = V::dot(low[r], w_low, x);
                    high[r] = V::dot(high[r], w_high, x);
                }
            }
            const float* scales = call.weight_scales + (panel * groups + g) * kColumns;
            auto s_low = V::load(scales), s_high = V::load(scales + V::width);
            for (int r = 0; r < R; ++r) {
                auto offset = V::set_int(call.sums[(row + r) * groups + g]);
                auto scale = V::set(call.scales[(row + r) * call.scale_groups + (call.scale_groups > 1 ? g : 0)]);
                V::store(sums[r], V::fma(V::to_float(low[r], offset), V::mul(scale, s_low), V::load(sums[r])));
                float* right = sums[r] + V::width;
                V::store(right, V::fma(V::to_float(high[r], offset), V::mul(scale, s_high), V::load(right)));
            }
        }
        for (int r = 0; r < R; ++r) finish(call, panel, row + r, sums[r]);
    }

    // The low-rank branch, the bias, and out.
    static void finish(const LinearCall& call, int64_t panel, int64_t row, const float* sums) {
        auto low = V::load(sums), high = V::load(sums + V::width);
        if (call.rank) {
            const float* up = call.up + panel * call.rank * kColumns;
            const float* h = call.h + row * call.rank;
            for (int64_t i = 0; i < call.rank; ++i, up += kColumns) {
                auto value = V::set(h[i]);
                low = V::fma(value, V::load(up), low);
                high = V::fma(value, V::load(up + V::width), high);
            }
        }
        if (call.bias) {
            low = V::add(low, V::load(call.bias + panel * kColumns));
            high = V::add(high, V::load(call.bias + panel * kColumns + V::width));
        }
        float line[kColumns];
        V::store(line, low);
        V::store(line + V::width, high);
        int64_t count = std::min<int64_t>(kColumns, call.n - panel * kColumns);
        std::copy(line, line + count, call.y + row * call.n + panel * kColumns);
    }

    static constexpr KernelTable table(const char* name) {
        return {name, columns, packed_bytes, pack_weight, quantize, prepare, linear, panels};
    }
};

}  // namespace aquatint
