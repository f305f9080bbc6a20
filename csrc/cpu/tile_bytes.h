// The way down of the low-rank branch by tiles, where it is bytes and reads codes of 8 bits, as in bytes.h. The way up is bfloat16
// (halves.h): what it multiplies has no scale, and bytes would take as many tiles.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/amx.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct TileBytes {
    using P = Panels<V>;

    // h of `count` rows of codes with a scale each, from row `first` on.
    static void project(const QuantizeCall& call, const int8_t* codes, const float* scales, int64_t first, int64_t count) {
        TilesInUse tiles;
        project_in_use(call, codes, scales, first, count);
    }

    static void project_in_use(const QuantizeCall& call, const int8_t* codes, const float* scales, int64_t first, int64_t count) {
        alignas(64) int32_t sums[kPair * kPair];
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel) {
            const auto* down = static_cast<const int8_t*>(call.down) + panel * call.k * P::kColumns;
            tile_pairs(count, [&](auto Both, int64_t row) {
                int64_t left = std::min(kPair, count - row);
                const int8_t* from = left % kTileRows ? whole_tiles(codes + row * call.k, left, call.k) : codes + row * call.k;
                TileRows lines = {from, call.k, kGroup, kTileRows * call.k};
                multiply_tiles<int8_t, Both.value>(lines, down, call.k / kGroup, sums);
                put(call, sums, scales + row, panel * P::kColumns, first + row, left);
            });
        }
    }

    // Rows with others behind them, as tiles are read to their end.
    static const int8_t* whole_tiles(const int8_t* codes, int64_t count, int64_t k) {
        auto* copy = scratch<int8_t, 10>(kPair * k);
        std::memcpy(copy, codes, size_t(count * k));
        std::memset(copy + count * k, 0, size_t((kPair - count) * k));
        return copy;
    }

    static void put(const QuantizeCall& call, const int32_t* sums, const float* scales, int64_t column, int64_t row, int64_t count) {
        auto s_low = V::load(call.down_scales + column), s_high = V::load(call.down_scales + column + V::width);
        for (int64_t r = 0; r < count; ++r, sums += kPair) {
            auto scale = V::set(scales[r]);
            auto low = V::mul(V::mul(V::to_float(V::load_ints(sums)), scale), s_low);
            auto high = V::mul(V::mul(V::to_float(V::load_ints(sums + V::width)), scale), s_high);
            store_some<V>(call.h + (row + r) * call.rank + column, low, high, call.rank - column);
        }
    }
};

}  // namespace aquatint
