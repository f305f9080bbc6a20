// A block of rows made ready for the product: a linear's lie there already; a convolution's are gathered, tap by tap.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/codec.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

struct Rows {
    int64_t count, k, scale_groups;
    const int8_t* codes;    // in tiles of V::rows: (tile, k / 4, row in the tile, 4), as a tile reads them
    const int32_t* starts;  // (count, k / 64): where each group's sum starts, to take back the + 8 of the weights
    const float* scales;    // (count, scale_groups)
    const float* h;         // (count, rank)
    const int64_t* gate;    // (count): where each row's gate begins, and its residual; null without
    const int64_t* residual;
};

template <class V>
struct RowSource {
    static Rows rows(const ProductCall& call, int64_t first, int64_t count) {
        Rows rows = call.window ? gathered(call, first, count) : given(call, first, count);
        int64_t groups = call.k / kGroup;
        auto* starts = scratch<int32_t, 2>(count * groups);
        for (int64_t i = 0; i < count * groups; ++i) starts[i] = V::start(rows.codes + i * kGroup);
        rows.starts = starts;
        rows.codes = in_tiles(rows.codes, count, call.k);
        rows.gate = begins(call.gate, first, count, scratch<int64_t, 10>(count));
        rows.residual = begins(call.residual, first, count, scratch<int64_t, 11>(count));
        return rows;
    }

    static const int64_t* begins(const Spread& spread, int64_t first, int64_t count, int64_t* places) {
        if (!spread.values) return nullptr;
        for (int64_t i = 0; i < count; ++i) places[i] = spread.place(first + i);
        return places;
    }

    static const int8_t* in_tiles(const int8_t* codes, int64_t count, int64_t k) {
        auto* tiled = scratch<int8_t, 9>((count + V::rows - 1) / V::rows * V::rows * k);
        tiles<V::rows>(count, [&](auto R, int64_t row) {
            int8_t* to = tiled + row * k;
            for (int64_t i = 0; i < k; i += 4, to += 4 * V::rows)
                unroll<R.value>([&](auto r) { std::memcpy(to + 4 * r, codes + (row + r) * k + i, 4); });
        });
        return tiled;
    }

    static Rows given(const ProductCall& call, int64_t first, int64_t count) {
        const int8_t* codes = static_cast<const int8_t*>(call.x) + first * call.k * call.bits / 8;
        if (call.bits == 4) {
            auto* bytes = scratch<int8_t, 3>(count * call.k);
            widen(reinterpret_cast<const uint8_t*>(codes), count * call.k, bytes);
            codes = bytes;
        }
        return {count, call.k, call.scale_groups, codes, nullptr, call.scales + first * call.scale_groups,
                call.h ? call.h + first * call.rank : nullptr, nullptr, nullptr};
    }

    static void widen(const uint8_t* pairs, int64_t count, int8_t* bytes) {
        for (int64_t i = 0; i < count / 2; ++i) {
            bytes[2 * i] = int8_t(low_code(pairs[i]));
            bytes[2 * i + 1] = int8_t(high_code(pairs[i]));
        }
    }

    static Rows gathered(const ProductCall& call, int64_t first, int64_t count) {
        int64_t groups = call.k / kGroup;
        auto* codes = scratch<int8_t, 3>(count * call.k);
        auto* scales = scratch<float, 4>(count * groups);
        auto* h = scratch<float, 5>(count * call.rank);
        std::fill(h, h + count * call.rank, 0.0f);
        for (int64_t i = 0; i < count; ++i)
            gather(call, first + i, codes + i * call.k, scales + i * groups, h + i * call.rank);
        return {count, call.k, groups, codes, nullptr, scales, h, nullptr, nullptr};
    }

    // One row: what lies outside the image is zero.
    static void gather(const ProductCall& call, int64_t row, int8_t* codes, float* scales, float* h) {
        const Window& w = *call.window;
        int64_t image = row / (w.rows * w.columns), place = row % (w.rows * w.columns);
        int64_t top = place / w.columns * w.stride[0] - w.padding[0];
        int64_t left = place % w.columns * w.stride[1] - w.padding[1];
        int64_t groups = w.channels / kGroup, taps = w.taps[0] * w.taps[1];
        for (int64_t tap = 0; tap < taps; ++tap, codes += w.channels, scales += groups) {
            int64_t y = top + tap / w.taps[1] * w.dilation[0], x = left + tap % w.taps[1] * w.dilation[1];
            if (y < 0 || y >= w.height || x < 0 || x >= w.width) {
                std::memset(codes, 0, w.channels);
                std::fill(scales, scales + groups, 0.0f);
                continue;
            }
            int64_t pixel = (image * w.height + y) * w.width + x;
            read_pixel(call, pixel, codes);
            const float* from = call.scales + pixel * call.scale_groups;
            for (int64_t g = 0; g < groups; ++g) scales[g] = from[call.scale_groups > 1 ? g : 0];
            const float* part = call.h + (pixel * taps + tap) * call.rank;
            for (int64_t i = 0; i < call.rank; ++i) h[i] += part[i];
        }
    }

    static void read_pixel(const ProductCall& call, int64_t pixel, int8_t* codes) {
        int64_t channels = call.window->channels;
        if (call.bits == 8)
            std::memcpy(codes, static_cast<const int8_t*>(call.x) + pixel * channels, channels);
        else
            widen(static_cast<const uint8_t*>(call.x) + pixel * channels / 2, channels, codes);
    }
};

}  // namespace aquatint
