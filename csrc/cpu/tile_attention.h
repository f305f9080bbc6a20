// y = softmax(scale q k^T) v for each head, as attention.h has it, by tiles. Queries and keys are held in two bfloat16 each, of
// which three products are taken, so that scores are good to 16 bits; shares and values in one.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/activation.h"
#include "cpu/amx.h"
#include "cpu/halves.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct TileAttention {
    using P = Panels<V>;
    using H = Halves<V>;
    using Number = typename H::Number;
    static constexpr int64_t kQueries = 128, kKeys = 512;  // at a time
    static constexpr int64_t kPart = kTileRows * H::kDeep;  // numbers of a tile
    static constexpr int kParts = 3;  // products of a query and a key: of large and large halves, small and large, large and small

    // Queries a task: many where there are heads enough, as keys and values are laid out once for each thread that has a head.
    static int64_t share(const AttentionCall& call) { return call.batch * call.heads < 8 ? 2 * kQueries : 8 * kQueries; }
    static int64_t shares(const AttentionCall& call) { return (call.queries + share(call) - 1) / share(call); }
    static int64_t tasks(const AttentionCall& call) { return call.batch * call.heads * shares(call); }
    static int64_t wide(const AttentionCall& call) { return P::count(call.keys) * P::kColumns; }
    static int64_t depth(const AttentionCall& call) { return kParts * H::deep(call.width); }  // of a score, in tiles

    // A head's keys and values in panels: (keys / 32, tiles of width, 16, 32, 2) and (width / 32, tiles of keys, 16, 32, 2).
    struct Head {
        const Number *keys, *values;
    };

    static void work(const AttentionCall& call, Tasks& tasks) {
        TilesInUse in_use;
        int64_t ready = -1;
        Head head{};
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t index = task / shares(call), image = index / call.heads, of = index % call.heads;
            if (index != ready) head = {keys(call, call.k.at(image, of)), values(call, call.v.at(image, of))};
            ready = index;
            int64_t begin = task % shares(call) * share(call), end = std::min(begin + share(call), call.queries);
            for (int64_t first = begin; first < end; first += kQueries) {
                float* y = call.y + ((image * call.queries + first) * call.heads + of) * call.width;
                attend(call, call.q.at(image, of) + first * call.q.row, std::min(kQueries, end - first), head, y);
            }
        }
    }

    // A block of queries. Keys come in blocks too, so that scores stay in the cache: what was added up before is scaled down where
    // a larger score turns up (arXiv 2205.14135).
    static void attend(const AttentionCall& call, const float* q, int64_t count, const Head& head, float* y) {
        int64_t rows = (count + kTileRows - 1) / kTileRows * kTileRows, deep = depth(call);
        auto* queries = scratch<Number, 0>(rows * deep * H::kDeep);
        auto* line = scratch<float, 1>(H::deep(call.width) * H::kDeep);
        for (int64_t i = 0; i < count; ++i) {
            scaled(q + i * call.q.row, call.width, call.scale * 1.44269504f, line);  // so that powers of two are taken
            query(line, call.width, queries + i / kTileRows * deep * kPart + i % kTileRows * H::kDeep);
        }
        Totals totals[kQueries];
        auto* weights = scratch<Number, 3>(rows * kKeys);
        for (int64_t first = 0; first < call.keys; first += kKeys) {
            int64_t keys = std::min(kKeys, wide(call) - first);
            weigh(call, queries, count, first, keys, head, totals, weights);
            add(call, count, first, keys, head, totals, weights, y);
        }
    }

    // Of a query: its largest score, what its shares come to, and by how much the last block of keys made smaller what was before.
    struct Totals {
        float largest = -3e38f, sum = 0.0f, shrunk = 0.0f;
    };

    static void weigh(const AttentionCall& call, const Number* queries, int64_t count, int64_t first, int64_t keys, const Head& head,
                      Totals* totals, Number* weights) {
        int64_t deep = depth(call), pitch = keys + V::width;  // rows a power of two apart would share few places in the cache
        auto* scores = scratch<float, 2>((count + kTileRows) * pitch);
        for (int64_t key = 0; key < keys; key += P::kColumns)
            tile_pairs(count, [&](auto Both, int64_t row) {
                TileRows from = {queries + row * deep * H::kDeep, 64, kTileBytes, deep * kTileBytes};
                multiply_tiles<Number, Both.value>(from, head.keys + (first + key) * deep * H::kDeep, deep, scores + row * pitch + key, 4 * pitch);
            });
        int64_t known = std::min(keys, call.keys - first);
        for (int64_t i = 0; i < count; ++i) {
            std::fill(scores + i * pitch + known, scores + i * pitch + keys, -3e38f);
            softmax(scores + i * pitch, keys, totals[i], weights + i / kTileRows * kTileRows * keys + i % kTileRows * H::kDeep);
        }
    }

    // Values by their shares, on top of what is in y, which the last block of keys divides by the sum of all shares.
    static void add(const AttentionCall& call, int64_t count, int64_t first, int64_t keys, const Head& head, const Totals* totals,
                    const Number* weights, float* y) {
        alignas(64) float sums[kPair * kPair];
        bool last = first + keys >= call.keys;
        for (int64_t column = 0; column < call.width; column += P::kColumns)
            tile_pairs(count, [&](auto Both, int64_t row) {
                TileRows from = {weights + row * keys, 64, kTileBytes, keys * 2 * kTileRows};
                multiply_tiles<Number, Both.value>(from, head.values + column * wide(call) + first * P::kColumns, keys / H::kDeep, sums);
                for (int64_t r = 0; r < std::min(kPair, count - row); ++r) {
                    float* to = y + (row + r) * call.heads * call.width + column;
                    auto low = V::load(sums + r * kPair), high = V::load(sums + r * kPair + V::width);
                    if (first) {
                        typename V::Float before_low, before_high;
                        auto shrunk = V::set(totals[row + r].shrunk);
                        load_some<V>(to, call.width - column, before_low, before_high);
                        low = V::fma(before_low, shrunk, low), high = V::fma(before_high, shrunk, high);
                    }
                    auto factor = V::set(last ? 1.0f / totals[row + r].sum : 1.0f);
                    store_some<V>(to, V::mul(low, factor), V::mul(high, factor), call.width - column);
                }
            });
    }

    // `count` numbers times a factor, and zeros to the end of a tile's row.
    static void scaled(const float* x, int64_t count, float factor, float* to) {
        for (int64_t i = 0; i < count; i += P::kColumns, to += P::kColumns) {
            typename V::Float low, high;
            load_some<V>(x + i, count - i, low, high);
            V::store(to, V::mul(low, V::set(factor)));
            V::store(to + V::width, V::mul(high, V::set(factor)));
        }
    }

    // A row of tiles: the large halves of 32 numbers, the small ones, and the large ones again. The zeros that fill x up are written
    // too: what a tile held there would be multiplied by a key's zeros, and may be no number.
    static void query(const float* x, int64_t count, Number* to) {
        for (int64_t i = 0; i < count; i += H::kDeep, to += kParts * kPart)
            for (int64_t half = 0; half < H::kDeep; half += V::width) {
                V::store_halves(V::load(x + i + half), to + half, to + kPart + half);
                V::store_halves(V::load(x + i + half), to + 2 * kPart + half);
            }
    }

    // Powers of two of the distances from the largest score so far, as a row of tiles.
    static void softmax(const float* scores, int64_t count, Totals& totals, Number* to) {
        auto largest = V::set(totals.largest);
        for (int64_t i = 0; i < count; i += V::width) largest = V::max(largest, V::load(scores + i));
        float lanes[V::width], most = totals.largest;
        V::store(lanes, largest);
        for (float lane : lanes) most = std::max(most, lane);
        auto centre = V::set(-most), low_sum = V::zero(), high_sum = V::zero();
        for (int64_t i = 0; i < count; i += P::kColumns, to += kPart) {
            auto low = Activations<V>::exp2_for_bfloat16(V::add(V::load(scores + i), centre));
            auto high = Activations<V>::exp2_for_bfloat16(V::add(V::load(scores + i + V::width), centre));
            V::store_halves(low, to);
            V::store_halves(high, to + V::width);
            low_sum = V::add(low_sum, low), high_sum = V::add(high_sum, high);
        }
        totals.shrunk = std::exp2(totals.largest - most);
        totals.sum = totals.sum * totals.shrunk + sum_of<V>(V::add(low_sum, high_sum));
        totals.largest = most;
    }

    // Keys of a head, 16 at a time: pairs of a key's numbers become a column, twice of the large halves, then of the small ones.
    static const Number* keys(const AttentionCall& call, const float* k) {
        int64_t deep = depth(call), pitch = 2 * H::deep(call.width) * H::kDeep;  // of a key's halves
        auto* panels = scratch<Number, 5>(wide(call) * deep * H::kDeep);
        auto* halves = scratch<Number, 6>(V::width * pitch);
        for (int64_t first = 0; first < wide(call); first += V::width) {
            for (int64_t i = 0; i < V::width; ++i) {
                if (first + i < call.keys)
                    key(k + (first + i) * call.k.row, call.width, halves + i * pitch);
                else
                    std::fill_n(halves + i * pitch, pitch, Number(0));
            }
            Number* to = panels + first / P::kColumns * deep * 2 * kPart + first % P::kColumns * 2;
            for (int64_t tile = 0; tile < deep; ++tile, to += 2 * kPart)
                V::transpose(halves + (tile / kParts * 2 + tile % kParts / 2) * H::kDeep, pitch, to, 2 * P::kColumns);
        }
        return panels;
    }

    // For every 32 numbers the large halves, then the small ones.
    static void key(const float* x, int64_t count, Number* to) {
        for (int64_t i = 0; i < count; i += H::kDeep, to += 2 * H::kDeep) {
            typename V::Float low, high;
            load_some<V>(x + i, count - i, low, high);
            V::store_halves(low, to, to + H::kDeep);
            V::store_halves(high, to + V::width, to + H::kDeep + V::width);
        }
    }

    // Values of a head: in a line of a panel two neighbouring keys' numbers alternate.
    static const Number* values(const AttentionCall& call, const float* v) {
        auto* panels = scratch<Number, 7>(P::count(call.width) * P::kColumns * wide(call));
        for (int64_t column = 0; column < call.width; column += P::kColumns)
            for (int64_t i = 0; i < wide(call); i += 2) {
                typename V::Float low, high, next_low = V::zero(), next_high = V::zero();
                int64_t left = call.width - column;
                if (i >= call.keys)
                    low = high = V::zero();
                else
                    load_some<V>(v + i * call.v.row + column, left, low, high);
                if (i + 1 < call.keys) load_some<V>(v + (i + 1) * call.v.row + column, left, next_low, next_high);
                Number* to = panels + column * wide(call) + i * P::kColumns;
                V::store_alternating(low, next_low, to);
                V::store_alternating(high, next_high, to + P::kColumns);
            }
        return panels;
    }
};

}  // namespace aquatint
