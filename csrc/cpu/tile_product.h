// The product of product.h by tiles: 32 rows by a panel of 32 columns at once. Integers are summed in a tile for as long as one
// scale holds: over all of K where neither rows nor weights have a scale for each group, else over a group, or a convolution's tap.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "cpu/amx.h"
#include "cpu/halves.h"
#include "cpu/product.h"
#include "cpu/tile_next.h"
#include "cpu/tile_weight.h"

namespace aquatint {

template <class V>
struct TileProduct {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int64_t kSmallest = 4 << 20;  // multiply-adds that are worth a task
    static constexpr int64_t kCached = 1200 << 10;  // bytes of a block's codes, which stay in the second-level cache
    static constexpr int64_t kMost = 1024;  // rows of a block
    static constexpr int64_t kHeld = 1280;  // of k: the first-level cache holds a panel, if rows pass it by
    static constexpr int64_t kAtOnce = 4;  // rows that are finished at once
    static constexpr int64_t kParts = (kTileRows / kAtOnce + 1) * 2;  // of what is finished beside the steps of the next unit
    static constexpr int64_t kBatch = 3;  // sums in memory, before they are added up in registers

    static Cut cut(const ProductCall& call) {
        if (call.next) return Cut(call, P::kColumns, TileNext<V>::rows(call), kPair, INT64_MAX);  // whole rows
        return Cut(call, P::kColumns, std::clamp<int64_t>(kCached / call.k / kPair * kPair, kPair, kMost), kPair, kSmallest);
    }
    static int64_t tasks(const ProductCall& call) { return cut(call).tasks(); }

    static void work(const ProductCall& call, Tasks& tasks) {
        TilesInUse in_use;
        Work work(call);
        auto ready = [&](int64_t first, int64_t count) {
            finish(work);  // of the block before
            work.first = first;
            work.rows = as_tiles(call, Product<V>::ready(call, first, count));
            if (call.next) work.next.emplace(*call.next, count);
        };
        int64_t groups = call.k / kGroup, both = call.paired ? 2 : 1, one = call.k * P::kColumns;
        cut(call).work(tasks, ready, [&](int64_t, int64_t panel, int64_t likely) {
            int64_t own = panel * both, units = (work.rows.count + kPair - 1) / kPair * both;  // of the weight's panels
            const int8_t* weight = work.weight.at(own, likely < 0 ? -1 : likely * both, units * (groups - kParts));
            tile_pairs(work.rows.count, [&](auto Both, int64_t row) {
                for (int64_t i = 0; i < both; ++i) pair<Both.value>(work, row, own + i, weight + i * one);
            });
            if (!work.next || (panel + 1) * P::kColumns < call.n) return;
            finish(work);
            work.next->close(work.first, work.rows.count);
        });
        finish(work);
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

    // 32 rows by a panel that tiles have multiplied and vectors have not finished yet.
    struct Unit {
        int64_t row, count, panel;
        int64_t done;         // rows that are finished
        int64_t ready;        // rows whose branch is in `side`
        const float* totals;  // integers where one scale a column is all that they lack
    };

    // What one thread has at hand. While tiles multiply, vectors finish the unit before.
    struct Work {
        const ProductCall& call;
        TileWeight<V> weight;
        std::optional<TileNext<V>> next;
        Block rows;
        int64_t first;  // row of the result
        Unit unit;
        int turn;
        alignas(64) int32_t sums[kBatch * kPair * kPair];
        alignas(64) float totals[2][kPair * kPair], side[kTileRows * kPair];
        alignas(64) float held[kPair * kPair];  // of a pair of panels, what the second one's activation multiplies

        explicit Work(const ProductCall& call) : call(call), weight(call), unit{}, turn(0) {}
    };

    // 32 rows by a panel, or 16: they are the next unit.
    template <bool Both>
    static void pair(Work& work, int64_t row, int64_t panel, const int8_t* weight) {
        const ProductCall& call = work.call;
        const Block& rows = work.rows;
        if (!rows.whole) work.turn ^= 1;
        float* totals = work.totals[work.turn];
        const int64_t* place = rows.code.rows + row;
        int64_t groups = call.k / kGroup, count = std::min(kPair, rows.count - row);
        int64_t parts = (kParts + groups - 1) / groups;  // so many that what they read is not overwritten
        int64_t fetched = 0, share = std::max(kAtOnce, (kPair + groups - 1) / groups);
        auto meanwhile = [&] {
            if (rows.residual && fetched < count) fetch(work, row, fetched, std::min(count, fetched + share), panel), fetched += share;
            if (work.unit.done == work.unit.count) return work.weight.step();
            for (int64_t i = 0; i < parts && work.unit.done < work.unit.count; ++i) finish_part(work);
        };
        auto multiply = [&](int64_t g, void* sums) {
            TileRows codes = {rows.codes + place[0] + rows.code.groups[g], rows.line, rows.step, Both ? place[kTileRows] - place[0] : 0};
            const int8_t* panel = weight + g * kGroup * P::kColumns;
            if (call.k <= kHeld)
                multiply_tiles<int8_t, Square<Both, true, false, true>>(codes, panel, rows.wide, sums, 4 * kPair, meanwhile);
            else
                multiply_tiles<int8_t, Square<Both>>(codes, panel, rows.wide, sums, 4 * kPair, meanwhile);
        };
        if (rows.whole) {
            multiply(0, totals);
        } else {
            for (int64_t g = 0; g < groups; g += kBatch * rows.wide) {
                int64_t batch = std::min(kBatch, (groups - g) / rows.wide);
                for (int64_t i = 0; i < batch; ++i) multiply(g + i * rows.wide, work.sums + i * kPair * kPair);
                tiles<kBatch>(batch, [&](auto N, int64_t) {
                    (rows.scaled ? &add<N.value, true> : &add<N.value, false>)(work, row, count, panel, g, totals);
                });
            }
        }
        work.unit = {row, count, panel, 0, 0, totals};
    }

    // Residuals of a unit's rows [begin, end), which are read when the next one is multiplied.
    [[gnu::always_inline]] static void fetch(const Work& work, int64_t row, int64_t begin, int64_t end, int64_t panel) {
        const float* residual = work.call.residual.values + (work.call.paired ? panel / 2 : panel) * P::kColumns;
        for (int64_t r = row + begin; r < row + end; ++r)
            for (int64_t i = 0; i < P::kColumns; i += V::width) __builtin_prefetch(residual + work.rows.residual[r] + i);
    }

    // N sums as what they stand for, on top of what came before group g.
    template <int N, bool Scaled>
    static void add(const Work& work, int64_t row, int64_t count, int64_t panel, int64_t g, float* totals) {
        const ProductCall& call = work.call;
        const Block& rows = work.rows;
        const float *scales[N], *own = call.weight_scales + panel * call.weight_groups * P::kColumns;
        const int32_t* sums = work.sums;
        int64_t groups = call.k / kGroup, places[N] = {};
        for (int i = 0; i < N; ++i) {
            scales[i] = own + (g + i * rows.wide) * call.weight_groups / groups * P::kColumns;
            if constexpr (Scaled) places[i] = rows.scale.groups[g + i * rows.wide];
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

    // All that is left of the unit before.
    static void finish(Work& work) {
        while (work.unit.done < work.unit.count) finish_part(work);
    }

    // A part of it: the branch of 16 rows, in tiles that multiply_tiles leaves free between two of its steps, or a few of these rows.
    static void finish_part(Work& work) {
        Unit& unit = work.unit;
        if (work.call.h && unit.ready == unit.done) {
            project(work);
            unit.ready += kTileRows;
            return;
        }
        int64_t from = unit.done, to = std::min(from + kAtOnce, unit.count);
        auto with = [&](auto Whole, auto Branch) { finish_rows<Whole.value, Branch.value>(work, from, to); };
        auto whether = [&](auto Whole) { work.call.h ? with(Whole, std::true_type{}) : with(Whole, std::false_type{}); };
        work.rows.whole ? whether(std::true_type{}) : whether(std::false_type{});
        unit.done = to;
    }

    // What 16 rows of h give to a panel.
    static void project(Work& work) {
        int64_t tile = (work.unit.row + work.unit.done) / kTileRows, deep = Halves<V>::deep(work.call.rank);
        const auto* h = static_cast<const uint8_t*>(work.rows.h) + tile * deep * kTileBytes;
        const auto* up = static_cast<const int16_t*>(work.call.up) + work.unit.panel * deep * Halves<V>::kDeep * P::kColumns;
        multiply_half(h, up, deep, work.side);
    }

    // Rows [from, to) of a unit; those that only go out are by themselves, as what else there is to ask takes longer than they do.
    template <bool Whole, bool Branch>
    [[gnu::noinline]] static void finish_rows(Work& work, int64_t from, int64_t to) {
        const ProductCall& call = work.call;
        const Block& rows = work.rows;
        const Unit unit = work.unit;
        int64_t panel = call.paired ? unit.panel / 2 : unit.panel;  // of the result
        bool more = Product<V>::more_to_do(call, rows, panel);
        if (call.paired || work.next || more)
            return each_row<Whole, Branch>(work, from, to, [&](int64_t r, Float low, Float high) {
                float* held = work.held + r * kPair;
                if (call.paired && unit.panel % 2 == 0) {
                    V::store(held, low);
                    V::store(held + V::width, high);
                    return;
                }
                if (call.paired) {
                    low = V::mul(Activations<V>::apply(call.activation, low), V::load(held));
                    high = V::mul(Activations<V>::apply(call.activation, high), V::load(held + V::width));
                }
                if (work.next)
                    work.next->take(call, rows, unit.row + r, panel, low, high);
                else
                    Product<V>::leave(call, rows, unit.row + r, work.first, panel, low, high);
            });
        float* y = call.y + (work.first + unit.row) * call.n + panel * P::kColumns;
        if (rows.passing)
            return each_row<Whole, Branch>(work, from, to, [&](int64_t r, Float low, Float high) {
                V::stream(y + r * call.n, low);
                V::stream(y + r * call.n + V::width, high);
            });
        each_row<Whole, Branch>(work, from, to, [&](int64_t r, Float low, Float high) {
            V::store(y + r * call.n, low);
            V::store(y + r * call.n + V::width, high);
        });
    }

    // leave(row, its numbers) with the scales that are left, the low-rank branch and the bias.
    template <bool Whole, bool Branch, class F>
    [[gnu::always_inline]] static void each_row(const Work& work, int64_t from, int64_t to, F&& leave) {
        const Unit unit = work.unit;
        const float* bias = work.call.bias ? work.call.bias + unit.panel * P::kColumns : nullptr;
        const float* own = work.call.weight_scales + unit.panel * P::kColumns;
        const float* scales = work.rows.scaled ? nullptr : work.rows.scales + unit.row;
        auto b_low = bias ? V::load(bias) : V::zero(), b_high = bias ? V::load(bias + V::width) : V::zero();
        auto w_low = Whole ? V::load(own) : V::zero(), w_high = Whole ? V::load(own + V::width) : V::zero();
        for (int64_t r = from; r < to; ++r) {
            const float *totals = unit.totals + r * kPair, *side = work.side + r % kTileRows * kPair;
            auto low = V::load(totals), high = V::load(totals + V::width);
            if constexpr (Whole) {
                low = V::mul(V::to_float(V::as_ints(low)), w_low);
                high = V::mul(V::to_float(V::as_ints(high)), w_high);
            }
            auto scale = V::set(Whole || scales ? scales[r] : 1.0f);
            low = V::fma(low, scale, b_low);
            high = V::fma(high, scale, b_high);
            if constexpr (Branch) {
                low = V::add(low, V::load(side));
                high = V::add(high, V::load(side + V::width));
            }
            leave(r, low, high);
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
};

}  // namespace aquatint
