// The quantize that reads a product's result, done before the result leaves the second-level cache: a block of whole rows is kept in
// bfloat16, which is all that the next branch reads of it, and becomes codes when a row's largest number is known.
#pragma once

#include <algorithm>

#include "cpu/halves.h"
#include "cpu/kernel_table.h"
#include "cpu/product.h"
#include "cpu/tile_bytes.h"

namespace aquatint {

template <class V>
struct TileNext {
    using P = Panels<V>;
    using Branch = Halves<V>;
    using Number = typename Branch::Number;
    using Float = typename V::Float;
    static constexpr int64_t kCached = 1200 << 10;  // bytes of a block, which stay in the second-level cache

    struct Largest {
        typename V::Int lanes;
    };

    const QuantizeCall& call;
    Number* block;     // in tiles
    Largest* largest;  // of each row

    // Rows of a block: as many as stay in the cache, and fewer where threads would be left without.
    static int64_t rows(const ProductCall& call) {
        int64_t most = kCached / (call.n * int64_t(sizeof(Number))) / kPair * kPair;
        return std::clamp<int64_t>((call.m + call.threads - 1) / call.threads, kPair, std::max(most, kPair));
    }

    TileNext(const QuantizeCall& call, int64_t count)
        : call(call), block(scratch<Number, 9>(Branch::room(count, call.k))), largest(scratch<Largest, 9>(count)) {
        std::fill(largest, largest + count, Largest{V::zero_int()});
    }

    // A row's numbers of one panel.
    [[gnu::noinline]] void take(const ProductCall& product, const Rows& rows, int64_t row, int64_t panel, Float low, Float high) {
        int64_t column = panel * P::kColumns;
        Product<V>::template finish_row<Activations<V, true>>(product, rows, row, column, low, high);
        if (call.smooth) {
            low = V::mul(low, V::load(call.smooth + column));
            high = V::mul(high, V::load(call.smooth + column + V::width));
        }
        largest[row].lanes = V::larger_magnitude(V::larger_magnitude(largest[row].lanes, low), high);
        Number* to = Branch::place(row, call.k, block) + panel * (kTileBytes / 2);
        V::store_halves(low, to);
        V::store_halves(high, to + V::width);
    }

    // All panels are there: codes, scales and h of the `count` rows from row `first` on.
    void close(int64_t first, int64_t count) const {
        for (int64_t row = 0; row < count; ++row) {
            float scale = group_scale(float_of(V::largest_lane(largest[row].lanes)), 127.0f);
            auto inverse = V::set(1.0f / scale);
            call.scales[first + row] = scale;
            const Number* from = Branch::place(row, call.k, block);
            int8_t* codes = call.codes + (first + row) * call.k;
            for (int64_t i = 0; i < call.k; i += P::kColumns, from += kTileBytes / 2) {
                V::store_codes(codes + i, V::mul(V::load_halves(from), inverse));
                V::store_codes(codes + i + V::width, V::mul(V::load_halves(from + V::width), inverse));
            }
        }
        if (!call.h) return;
        if (call.branch_bits == 8)
            TileBytes<V>::project_in_use(call, call.codes + first * call.k, call.scales + first, first, count);
        else
            Branch::project_in_use(call, block, first, count);
    }
};

}  // namespace aquatint
