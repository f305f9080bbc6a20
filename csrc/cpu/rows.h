// A block of rows made ready for the product. A linear's are laid out in tiles; a convolution's are not gathered: the part of
// the image that the block sees is copied with its border of zeros, and each row and each group of codes say where they begin.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/codec.h"
#include "cpu/bytes.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"
#include "cpu/ways.h"
#include "cpu/words.h"

namespace aquatint {

// Where something of row i and group g of codes lies: at rows[i] + groups[g].
struct Places {
    int64_t* rows;
    int64_t* groups;
};

struct Rows {
    int64_t count;
    bool scaled;            // a scale for each group; else one for each row
    int64_t wide;           // groups of codes that have one scale, those of the weight too
    bool whole;             // is that all of them?
    bool passing;           // does y pass the caches by?
    const int8_t* codes;    // a linear's in tiles, (k / 64, row in the tile, 64); a convolution's as they lie in the image
    const int32_t* starts;  // where the sum over `wide` groups starts, to take back the + 8 or + 128 of the weights
    const float* scales;
    const void* h;          // (count, rank) as words.h, halves.h or bytes.h has them
    const float* h_scales;
    const int32_t* h_starts;  // where sums over bytes start
    const int64_t* gate;    // (count): where each row's gate begins, and its residual; null without
    const int64_t* residual;
    Places code, start, scale;
};

template <class V>
struct RowSource {
    static Rows rows(const ProductCall& call, int64_t first, int64_t count) {
        Rows rows{};
        rows.count = count, rows.scaled = call.window || call.scale_groups > 1;
        int64_t groups = call.k / kGroup;
        rows.wide = span(call, rows.scaled), rows.whole = rows.wide == groups && !rows.scaled;
        rows.code = {scratch<int64_t, 12>(count), scratch<int64_t, 13>(groups)};
        rows.start = {scratch<int64_t, 14>(count), scratch<int64_t, 15>(groups)};
        rows.scale = {scratch<int64_t, 16>(count), scratch<int64_t, 17>(groups)};
        rows.gate = begins(call.gate, first, count, scratch<int64_t, 10>(count));
        rows.residual = begins(call.residual, first, count, scratch<int64_t, 11>(count));
        if (!call.window)
            given(call, first, rows);
        else
            call.window->places ? placed(call, first, rows) : seen(call, first, rows);
        return rows;
    }

    // How many groups of codes have one scale, that of the weight too.
    static int64_t span(const ProductCall& call, bool scaled) {
        constexpr int64_t kExact = INT32_MAX / (128 * 127) / kGroup;  // groups that 32 bits hold the sum of, begun at `starts`
        int64_t groups = call.k / kGroup, of_weight = groups / call.weight_groups;
        int64_t of_rows = (call.window ? call.window->channels / kGroup : groups) / call.scale_groups;
        int64_t found = std::min(scaled ? of_rows : groups, of_weight);
        return V::wide_sums && found <= kExact ? found : 1;
    }

    static const int64_t* begins(const Spread& spread, int64_t first, int64_t count, int64_t* places) {
        if (!spread.values) return nullptr;
        for (int64_t i = 0; i < count; ++i) places[i] = spread.place(first + i);
        return places;
    }

    static void given(const ProductCall& call, int64_t first, Rows& rows) {
        int64_t count = rows.count, k = call.k;
        const int8_t* codes = static_cast<const int8_t*>(call.x) + first * k * call.bits / 8;
        if (call.bits == 4) {
            auto* bytes = scratch<int8_t, 3>(count * k);
            widen(reinterpret_cast<const uint8_t*>(codes), count * k, bytes);
            codes = bytes;
        }
        rows.scales = call.scales + first * call.scale_groups;
        if (call.h) of_branch(call, call.h + first * call.rank, rows);
        tiled(call, codes, call.scale_groups, rows);
    }

    // Rows of codes (count, k), in tiles unless AMX makes its own of them; `scales` a row, for one or more groups each.
    static void tiled(const ProductCall& call, const int8_t* codes, int64_t scales, Rows& rows) {
        int64_t k = call.k, groups = k / kGroup, tile = rows.whole ? V::whole_rows : V::rows;
        if constexpr (V::has_tiles)
            rows.codes = codes;
        else
            rows.codes = rows.whole ? in_tiles<V::whole_rows>(codes, rows.count, k) : in_tiles<V::rows>(codes, rows.count, k);
        rows.starts = starts_of(call, codes, rows.count * groups, rows.wide);
        for (int64_t i = 0; i < rows.count; ++i) {
            rows.code.rows[i] = V::has_tiles ? i * k : i / tile * tile * k + i % tile * kGroup;
            rows.start.rows[i] = i * groups / rows.wide;
            rows.scale.rows[i] = i * scales;
        }
        for (int64_t g = 0; g < groups; ++g) {
            rows.code.groups[g] = g * kGroup * (V::has_tiles ? 1 : tile);
            rows.start.groups[g] = g / rows.wide;
            rows.scale.groups[g] = g * scales / groups;
        }
    }

    // A convolution at some places alone: the pixels that they see, gathered.
    static void placed(const ProductCall& call, int64_t first, Rows& rows) {
        const Window& w = *call.window;
        int64_t each = call.scale_groups, stored = w.channels * call.bits / 8;
        auto* codes = scratch<int8_t, 3>(rows.count * call.k);
        auto* scales = scratch<float, 4>(rows.count * w.seen() * each);
        rows.scales = scales;
        int8_t* code = codes;
        for (int64_t i = 0; i < rows.count; ++i)
            for (int64_t tap = 0; tap < w.seen(); ++tap, code += w.channels, scales += each) {
                int64_t pixel = w.pixel(first + i, tap);
                const auto* from = static_cast<const int8_t*>(call.x) + pixel * stored;
                if (pixel < 0)
                    std::memset(code, 0, w.channels);
                else if (call.bits == 8)
                    std::memcpy(code, from, w.channels);
                else
                    widen(reinterpret_cast<const uint8_t*>(from), w.channels, code);
                for (int64_t j = 0; j < each; ++j) scales[j] = pixel < 0 ? 0.0f : call.scales[pixel * each + j];
            }
        tiled(call, codes, w.seen() * each, rows);
        if (call.h) of_branch(call, branch(call, first, rows.count), rows);
    }

    template <int Tile>
    static const int8_t* in_tiles(const int8_t* codes, int64_t count, int64_t k) {
        auto* tiled = scratch<int8_t, 9>((count + Tile - 1) / Tile * Tile * k);
        tiles<Tile>(count, [&](auto R, int64_t row) {
            int8_t* to = tiled + row * k;
            for (int64_t i = 0; i < k; i += kGroup, to += kGroup * Tile)
                unroll<R.value>([&](auto r) { std::memcpy(to + kGroup * r, codes + (row + r) * k + i, kGroup); });
        });
        return tiled;
    }

    static const int32_t* starts_of(const ProductCall& call, const int8_t* codes, int64_t groups, int64_t wide) {
        if (V::has_tiles) return nullptr;  // which takes signed bytes
        auto* starts = scratch<int32_t, 2>(groups / wide);
        for (int64_t g = 0; g < groups; ++g) starts[g / wide] = V::start(codes + g * kGroup) + (g % wide ? starts[g / wide] : 0);
        if (call.weight_bits == 4 && !call.wholes) return starts;
        for (int64_t g = 0; g < groups / wide; ++g) starts[g] *= 16;  // 128 where it was 8
        return starts;
    }

    static void widen(const uint8_t* pairs, int64_t count, int8_t* bytes) {
        for (int64_t i = 0; i < count / 2; ++i) {
            bytes[2 * i] = int8_t(low_code(pairs[i]));
            bytes[2 * i + 1] = int8_t(high_code(pairs[i]));
        }
    }

    // The images with their borders, one above the other: lines of `width` pixels, `height` lines an image.
    struct Padded {
        int64_t height, width;
        explicit Padded(const Window& w) : height(w.height + 2 * w.padding[0]), width(w.width + 2 * w.padding[1]) {}

        int64_t line(const Window& w, int64_t row) const {  // the first that an output row sees
            return row / (w.rows * w.columns) * height + row / w.columns % w.rows * w.stride[0];
        }
    };

    static void seen(const ProductCall& call, int64_t first, Rows& rows) {
        const Window& w = *call.window;
        Padded padded(w);
        int64_t top = padded.line(w, first), groups = w.channels / kGroup;
        int64_t lines = padded.line(w, first + rows.count - 1) + (w.taps[0] - 1) * w.dilation[0] + 1 - top;
        auto* codes = scratch<int8_t, 3>(lines * padded.width * w.channels);
        auto* scales = scratch<float, 4>(lines * padded.width * call.scale_groups);
        for (int64_t line = 0; line < lines; ++line)
            copy_line(call, padded, top + line, codes + line * padded.width * w.channels,
                      scales + line * padded.width * call.scale_groups);
        rows.codes = codes;
        rows.scales = scales;
        rows.starts = starts_of(call, codes, lines * padded.width * groups, rows.wide);
        for (int64_t i = 0; i < rows.count; ++i) {
            int64_t pixel = (padded.line(w, first + i) - top) * padded.width + (first + i) % w.columns * w.stride[1];
            rows.code.rows[i] = pixel * w.channels;
            rows.start.rows[i] = pixel * groups / rows.wide;
            rows.scale.rows[i] = pixel * call.scale_groups;
        }
        for (int64_t g = 0; g < call.k / kGroup; ++g) {
            int64_t tap = g / groups, part = g % groups;
            int64_t pixel = tap / w.taps[1] * w.dilation[0] * padded.width + tap % w.taps[1] * w.dilation[1];
            rows.code.groups[g] = pixel * w.channels + part * kGroup;
            rows.start.groups[g] = (pixel * groups + part) / rows.wide;
            rows.scale.groups[g] = pixel * call.scale_groups + (call.scale_groups > 1 ? part : 0);
        }
        if (call.h) of_branch(call, branch(call, first, rows.count), rows);
    }

    static void of_branch(const ProductCall& call, const float* h, Rows& rows) {
        using Branch = typename Ways<V>::Branch;
        if constexpr (Bytes<V>::kUp)
            if (call.branch_bits == 8) return of_bytes(call, h, rows);
        int64_t rank = call.rank;
        auto* block = scratch<typename Branch::Number, 18>(Branch::room(rows.count, rank));
        auto* scales = scratch<float, 19>(rows.count);
        for (int64_t i = 0; i < rows.count; ++i) scales[i] = Branch::put_between(h + i * rank, rank, i, block);
        rows.h = block;
        rows.h_scales = scales;
    }

    static void of_bytes(const ProductCall& call, const float* h, Rows& rows) {
        int64_t stride = Bytes<V>::stride(call.rank);
        auto* codes = scratch<int8_t, 18>(rows.count * stride);
        auto* scales = scratch<float, 19>(rows.count);
        auto* starts = scratch<int32_t, 20>(rows.count);
        for (int64_t i = 0; i < rows.count; ++i)
            scales[i] = Bytes<V>::put(h + i * call.rank, call.up_scales, call.rank, codes + i * stride, starts[i]);
        rows.h = codes;
        rows.h_scales = scales;
        rows.h_starts = starts;
    }

    static void copy_line(const ProductCall& call, const Padded& padded, int64_t line, int8_t* codes, float* scales) {
        const Window& w = *call.window;
        int64_t y = line % padded.height - w.padding[0], each = call.scale_groups;
        if (y < 0 || y >= w.height) {
            std::memset(codes, 0, padded.width * w.channels);
            std::fill(scales, scales + padded.width * each, 0.0f);
            return;
        }
        int64_t from = (line / padded.height * w.height + y) * w.width, border = w.padding[1];
        for (int64_t side : {int64_t(0), border + w.width}) {
            std::memset(codes + side * w.channels, 0, border * w.channels);
            std::fill(scales + side * each, scales + (side + border) * each, 0.0f);
        }
        codes += border * w.channels;
        if (call.bits == 8)
            std::memcpy(codes, static_cast<const int8_t*>(call.x) + from * w.channels, w.width * w.channels);
        else
            widen(static_cast<const uint8_t*>(call.x) + from * w.channels / 2, w.width * w.channels, codes);
        std::copy(call.scales + from * each, call.scales + (from + w.width) * each, scales + border * each);
    }

    // What the pixels that a row sees give through each tap, added up.
    static const float* branch(const ProductCall& call, int64_t first, int64_t count) {
        const Window& w = *call.window;
        auto* h = scratch<float, 5>(count * call.rank);
        std::fill(h, h + count * call.rank, 0.0f);
        for (int64_t i = 0; i < count; ++i)
            w.each_pixel(first + i, [&](int64_t tap, int64_t pixel) {
                add(call.h + (pixel * w.seen() + tap) * call.rank, call.rank, h + i * call.rank);
            });
        return h;
    }

    static void add(const float* part, int64_t count, float* sums) {
        int64_t j = 0;
        for (; j + 8 <= count; j += 8)  // known to be 8, so that they are added at once
            for (int i = 0; i < 8; ++i) sums[j + i] += part[j + i];
        for (; j < count; ++j) sums[j] += part[j];
    }
};

}  // namespace aquatint
