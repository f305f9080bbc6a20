// Numbers as bfloat16, in which the low-rank branch is multiplied where there are tiles: what it is added to comes of codes of 8
// bits and 4, which are off by more. Rows lie as tiles read them: 16 rows by 32 numbers.
#pragma once

#include <algorithm>

#include "cpu/amx.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Halves {
    using P = Panels<V>;
    using Number = uint16_t;
    static constexpr int64_t kDeep = 32;  // numbers of a tile's row

    static int64_t deep(int64_t count) { return (count + kDeep - 1) / kDeep; }
    static int64_t tile_row(int64_t count) { return deep(count) * kTileBytes; }  // bytes of 16 rows

    // Room for `rows` rows of `count` numbers.
    static int64_t room(int64_t rows, int64_t count) { return (rows + kTileRows - 1) / kTileRows * tile_row(count) / 2; }

    // Of what is projected down: row `row` of a block. Nothing is scaled.
    static float put_input(const float* x, int64_t count, float, int64_t row, Number* block) {
        Number* to = place(row, count, block);
        for (int64_t i = 0; i < count; i += kDeep, to += kTileBytes / 2) {
            V::store_halves(V::load(x + i), to);
            V::store_halves(V::load(x + i + V::width), to + V::width);
        }
        return 1.0f;
    }

    // Of what lies between the two projections: row `row` of a block, filled up with zeros.
    static float put_between(const float* x, int64_t count, int64_t row, Number* block) {
        Number* to = place(row, count, block);
        for (int64_t i = 0; i < count; i += kDeep, to += kTileBytes / 2) {
            typename V::Float low, high;
            load_some<V>(x + i, count - i, low, high);
            V::store_halves(low, to);
            V::store_halves(high, to + V::width);
        }
        return 1.0f;
    }

    static Number* place(int64_t row, int64_t count, Number* block) {
        return block + row / kTileRows * tile_row(count) / 2 + row % kTileRows * kDeep;
    }

    // h of the `count` rows in a block, from row `first` on.
    static void project(const QuantizeCall& call, const Number* block, const float*, int64_t first, int64_t count) {
        TilesInUse tiles;
        project_in_use(call, block, first, count);
    }

    static void project_in_use(const QuantizeCall& call, const Number* block, int64_t first, int64_t count) {
        alignas(64) float sums[kPair * kPair];
        int64_t tall = tile_row(call.k);
        const auto* down = static_cast<const int16_t*>(call.down);
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel)
            tile_pairs(count, [&](auto Both, int64_t row) {
                TileRows from = {block + row / kTileRows * tall / 2, 64, kTileBytes, tall};
                multiply_tiles<Number, Both.value>(from, down + panel * call.k * P::kColumns, deep(call.k), sums);
                for (int64_t r = 0; r < std::min(kPair, count - row); ++r) {
                    const float* line = sums + r * kPair;
                    store_some<V>(call.h + (first + row + r) * call.rank + panel * P::kColumns, V::load(line),
                                  V::load(line + V::width), call.rank - panel * P::kColumns);
                }
            });
    }
};

}  // namespace aquatint
