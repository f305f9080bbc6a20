// The product of product.h by tiles: 32 rows by a panel of 32 columns at once. Integers are summed in a tile for as long as one
// scale holds: over all of K where neither rows nor weights have a scale for each group, else over a group, or a convolution's tap.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/amx.h"
#include "cpu/halves.h"
#include "cpu/product.h"

namespace aquatint {

template <class V>
struct TileProduct {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int64_t kSmallest = 4 << 20;  // multiply-adds that are worth a task
    static constexpr int64_t kCached = 1200 << 10;  // bytes of a block's codes, which stay in the second-level cache
    static constexpr int64_t kMost = 1024;  // rows of a block
    static constexpr int64_t kBatch = 2;  // sums in memory, before they are added up in registers

    static Cut cut(const ProductCall& call) {
        return Cut(call, P::kColumns, std::clamp<int64_t>(kCached / call.k / kPair * kPair, kPair, kMost), kPair, kSmallest);
    }
    static int64_t tasks(const ProductCall& call) { return cut(call).tasks(); }

    static void work(const ProductCall& call, Tasks& tasks) {
        TilesInUse in_use;
        Block rows{};
        cut(call).work(
            tasks, [&](int64_t first, int64_t count) { rows = as_tiles(call, Product<V>::ready(call, first, count)); },
            [&](int64_t first, int64_t panel) {
                const int8_t* weight = as_signed(call, panel);
                tile_pairs(rows.count, [&](auto Both, int64_t row) { pair<Both.value>(call, rows, row, first, panel, weight); });
            });
        V::fence();
    }

    // Rows, and how tiles are loaded from them (amx.h).
    struct Block : Rows {
        int64_t line, step;
    };

    // Where 16 rows lie evenly they are loaded from there; else they are copied into tiles.
    static Block as_tiles(const ProductCall& call, const Rows& rows) {
        bool image = call.window && !call.window->places;
        if (rows.count % kTileRows == 0 && (!image || call.window->columns % kTileRows == 0))
            return {rows, image ? call.window->channels * call.window->stride[1] : call.k, kGroup};
        Block tiled{rows, kGroup, kTileBytes};
        auto* codes = scratch<int8_t, 9>((rows.count + kTileRows - 1) / kTileRows * kTileRows * call.k);
        for (int64_t row = 0; row < rows.count; ++row) {
            int64_t place = row / kTileRows * kTileRows * call.k + row % kTileRows * kGroup;
            for (int64_t g = 0; g < call.k / kGroup; ++g)
                std::memcpy(codes + place + g * kTileBytes, rows.codes + rows.code.rows[row] + rows.code.groups[g], kGroup);
            rows.code.rows[row] = place;
        }
        for (int64_t g = 0; g < call.k / kGroup; ++g) rows.code.groups[g] = g * kTileBytes;
        tiled.codes = codes;
        return tiled;
    }

    // A panel's weights as signed bytes; those of 4 bits times the whole number of their group, where there is one.
    static const int8_t* as_signed(const ProductCall& call, int64_t panel) {
        int64_t lines = call.k / 4, groups = call.k / kGroup;
        const uint8_t* packed = call.weight + panel * P::kColumns * call.k * call.weight_bits / 8;
        auto* bytes = scratch<uint8_t, 7>(call.k * P::kColumns);
        if (call.weight_bits == 8) {
            for (int64_t i = 0; i < call.k * P::kColumns; i += 64) V::signed_bytes(packed + i, bytes + i);
            return reinterpret_cast<const int8_t*>(bytes);
        }
        for (int64_t line = 0; line < lines; ++line, packed += 64) {
            uint8_t* to = bytes + line * 128;
            if (call.wholes)
                V::unpack_signed(packed, to, call.wholes + (panel * groups + line / 16) * P::kColumns);
            else
                V::unpack_signed(packed, to);
        }
        return reinterpret_cast<const int8_t*>(bytes);
    }

    // How many groups of codes have one scale.
    static int64_t span(const ProductCall& call, const Rows& rows) {
        int64_t groups = call.k / kGroup;
        int64_t of_rows = (call.window ? call.window->channels / kGroup : groups) / call.scale_groups;
        return std::min(rows.scaled ? of_rows : groups, groups / call.weight_groups);
    }

    // 32 rows, or 16, by a panel: sums of integers, the low-rank branch, the bias, and what product.h does with a row.
    template <bool Both>
    static void pair(const ProductCall& call, const Block& rows, int64_t row, int64_t first, int64_t panel, const int8_t* weight) {
        alignas(64) int32_t sums[kBatch * kPair * kPair];
        alignas(64) float totals[kPair * kPair], side[kPair * kPair];
        int64_t groups = call.k / kGroup, wide = span(call, rows), count = std::min(kPair, rows.count - row);
        if (call.h) {  // first, so that nothing waits for it
            int64_t tall = Halves<V>::tile_row(call.rank, 2), deep = Halves<V>::deep(call.rank);
            const auto* h = static_cast<const uint8_t*>(rows.h) + row / kTileRows * tall;
            multiply_tiles<2, Both>({h, 64, kTileBytes, tall}, call.up + panel * deep * 32 * P::kColumns, 2 * deep, side);
        }
        const int64_t* place = rows.code.rows + row;
        for (int64_t g = 0; g < groups; g += kBatch * wide) {
            int64_t batch = std::min(kBatch, (groups - g) / wide);
            for (int64_t i = 0; i < batch; ++i) {
                int64_t at = g + i * wide;
                const int8_t* code = rows.codes + place[0] + rows.code.groups[at];
                TileRows codes = {code, rows.line, rows.step, Both ? place[kTileRows] - place[0] : 0};
                multiply_tiles<0, Both>(codes, weight + at * kGroup * P::kColumns, wide, sums + i * kPair * kPair);
            }
            tiles<kBatch>(batch, [&](auto N, int64_t) {
                (rows.scaled ? &add<N.value, true> : &add<N.value, false>)(call, rows, row, count, panel, g, wide, sums, totals);
            });
        }
        bool more = Product<V>::more_to_do(call, rows, panel);
        const float* bias = call.bias ? call.bias + panel * P::kColumns : nullptr;
        auto b_low = bias ? V::load(bias) : V::zero(), b_high = bias ? V::load(bias + V::width) : V::zero();
        for (int64_t r = 0; r < count; ++r) {
            auto scale = V::set(rows.scaled ? 1.0f : rows.scales[row + r]);
            auto low = V::fma(V::load(totals + r * kPair), scale, b_low);
            auto high = V::fma(V::load(totals + r * kPair + V::width), scale, b_high);
            if (call.h) {
                low = V::add(low, V::load(side + r * kPair));
                high = V::add(high, V::load(side + r * kPair + V::width));
            }
            if (more)
                Product<V>::leave(call, rows, row + r, first, panel, low, high);
            else
                Product<V>::put(call, rows, row + r, first, panel, low, high);
        }
    }

    // Multiply-adds done in `rounds` rounds on tiles alone.
    static double ceiling(int64_t rounds) {
        TilesInUse in_use;
        for (int64_t i = 0; i < rounds; ++i) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
        return double(rounds) * kPair * kPair * kGroup;
    }

    // N sums as what they stand for, on top of what came before group g.
    template <int N, bool Scaled>
    static void add(const ProductCall& call, const Rows& rows, int64_t row, int64_t count, int64_t panel, int64_t g, int64_t wide,
                    const int32_t* sums, float* totals) {
        const float *scales[N], *own = call.weight_scales + panel * call.weight_groups * P::kColumns;
        int64_t groups = call.k / kGroup, places[N] = {};
        for (int i = 0; i < N; ++i) {
            scales[i] = own + (g + i * wide) * call.weight_groups / groups * P::kColumns;
            if constexpr (Scaled) places[i] = rows.scale.groups[g + i * wide];
        }
        for (int64_t r = 0; r < count; ++r, sums += kPair, totals += kPair) {
            auto low = g ? V::load(totals) : V::zero(), high = g ? V::load(totals + V::width) : V::zero();
            unroll<N>([&](auto i) {
                const int32_t* line = sums + i * kPair * kPair;
                auto x_low = V::to_float(V::load_ints(line)), x_high = V::to_float(V::load_ints(line + V::width));
                if constexpr (Scaled) {
                    auto scale = V::set(rows.scales[rows.scale.rows[row + r] + places[i]]);
                    x_low = V::mul(x_low, scale), x_high = V::mul(x_high, scale);
                }
                low = V::fma(x_low, V::load(scales[i]), low);
                high = V::fma(x_high, V::load(scales[i] + V::width), high);
            });
            V::store(totals, low);
            V::store(totals + V::width, high);
        }
    }
};

}  // namespace aquatint
