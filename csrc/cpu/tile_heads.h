// A head's queries, keys and values as tiles read them. Queries and keys lie in `Parts` bfloat16 for each number: one, or three of
// which products give scores that are good to 16 bits: of large and large halves, small and large, large and small.
#pragma once

#include <algorithm>

#include "cpu/amx.h"
#include "cpu/halves.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V, int Parts>
struct TileHeads {
    using P = Panels<V>;
    using H = Halves<V>;
    using Number = typename H::Number;
    static constexpr int64_t kPart = kTileRows * H::kDeep;  // numbers of a tile
    static constexpr int64_t kHalves = Parts == 1 ? 1 : 2;  // of a number

    static int64_t wide(const AttentionCall& call) { return P::count(call.keys) * P::kColumns; }
    static int64_t columns(const AttentionCall& call) { return P::count(call.width) * P::kColumns; }
    static int64_t deep(const AttentionCall& call) { return Parts * H::deep(call.width); }  // of a score, in tiles

    // In panels: (keys / 32, tiles of width, 16, 32, 2) and (width / 32, tiles of keys, 16, 32, 2).
    const Number *keys, *values;

    static TileHeads of(const AttentionCall& call, int64_t image, int64_t head) {
        return {keys_of(call, call.k.at(image, head)), values_of(call, call.v.at(image, head))};
    }

    // Up to 32 rows of queries, times a factor.
    static void queries_of(const AttentionCall& call, const float* q, int64_t count, float factor, Number* to) {
        auto scale = V::set(factor);
        for (int64_t row = 0; row < count; ++row, q += call.q.row) {
            Number* at = to + row / kTileRows * deep(call) * kPart + row % kTileRows * H::kDeep;
            for (int64_t i = 0; i < call.width; i += H::kDeep, at += Parts * kPart) {
                typename V::Float low, high;
                load_some<V>(q + i, call.width - i, low, high);
                put(V::mul(low, scale), at);
                put(V::mul(high, scale), at + V::width);
            }
        }
    }

    // Numbers of a query in a row of tiles. The zeros that fill them up are written too: what a tile held there would be multiplied
    // by a key's zeros, and may be no number.
    static void put(typename V::Float x, Number* to) {
        if constexpr (Parts == 1) {
            V::store_halves(x, to);
        } else {
            V::store_halves(x, to, to + kPart);
            V::store_halves(x, to + 2 * kPart);
        }
    }

    // Keys 16 at a time: pairs of a key's numbers become a column; with three parts twice of the large halves, then of the small.
    static const Number* keys_of(const AttentionCall& call, const float* k) {
        int64_t tiles = deep(call), pitch = kHalves * H::deep(call.width) * H::kDeep;  // of a key's halves
        auto* panels = scratch<Number, 5>(wide(call) * tiles * H::kDeep);
        auto* halves = scratch<Number, 6>(V::width * pitch);
        for (int64_t first = 0; first < wide(call); first += V::width) {
            for (int64_t i = 0; i < V::width; ++i) {
                if (first + i < call.keys)
                    key(k + (first + i) * call.k.row, call.width, halves + i * pitch);
                else
                    std::fill_n(halves + i * pitch, pitch, Number(0));
            }
            Number* to = panels + first / P::kColumns * tiles * 2 * kPart + first % P::kColumns * 2;
            for (int64_t tile = 0; tile < tiles; ++tile, to += 2 * kPart)
                V::transpose(halves + (tile / Parts * kHalves + tile % Parts / 2) * H::kDeep, pitch, to, 2 * P::kColumns);
        }
        return panels;
    }

    // For every 32 numbers the large halves, then the small ones.
    static void key(const float* x, int64_t count, Number* to) {
        for (int64_t i = 0; i < count; i += H::kDeep, to += kHalves * H::kDeep) {
            typename V::Float low, high;
            load_some<V>(x + i, count - i, low, high);
            if constexpr (Parts == 1) {
                V::store_halves(low, to);
                V::store_halves(high, to + V::width);
            } else {
                V::store_halves(low, to, to + H::kDeep);
                V::store_halves(high, to + V::width, to + H::kDeep + V::width);
            }
        }
    }

    // In a line of a panel two neighbouring keys' numbers alternate.
    static const Number* values_of(const AttentionCall& call, const float* v) {
        auto* panels = scratch<Number, 7>(columns(call) * wide(call));
        for (int64_t column = 0; column < call.width; column += P::kColumns)
            for (int64_t i = 0; i < wide(call); i += 2) {
                auto low = V::zero(), high = V::zero(), next_low = V::zero(), next_high = V::zero();
                int64_t left = call.width - column;
                if (i < call.keys) load_some<V>(v + i * call.v.row + column, left, low, high);
                if (i + 1 < call.keys) load_some<V>(v + (i + 1) * call.v.row + column, left, next_low, next_high);
                Number* to = panels + column * wide(call) + i * P::kColumns;
                V::store_alternating(low, next_low, to);
                V::store_alternating(high, next_high, to + P::kColumns);
            }
        return panels;
    }
};

}  // namespace aquatint
