// y (M, N) = activation( sum over groups of scale_x scale_w (codes_x . codes_w) + h up^T + bias )
//
// Codes are multiplied as integers and summed exactly for as long as one scale holds: over all of K where neither rows nor
// weights have a scale for each group, else over a group of 64, or a convolution's tap. What has scales of its own is added in
// float32 in ascending order, whatever the number of threads. A task is a block of rows by some panels. A panel's weight is
// unpacked to bytes once a block; they stream from the second-level cache past the tiles, which costs nothing measurable beside
// keeping them in the first.
#pragma once

#include <algorithm>

#include "cpu/activation.h"
#include "cpu/bytes.h"
#include "cpu/cut.h"
#include "cpu/panels.h"
#include "cpu/rows.h"
#include "cpu/tiles.h"
#include "cpu/words.h"

namespace aquatint {

template <class V>
struct Product {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int64_t kSmallest = 1 << 20;  // multiply-adds that are worth a task
    static constexpr int64_t kBlock = 384, kLeast = 96;  // rows a task at most; and a thread at least, or they share them
    static constexpr int64_t kPassing = 12 << 20;  // bytes of a result that passes the caches by

    static Cut cut(const ProductCall& call) {
        return Cut(call, P::kColumns, even_block(call.m, kBlock, call.threads, kLeast), 1, kSmallest);
    }
    static int64_t tasks(const ProductCall& call) { return cut(call).tasks(); }

    static void work(const ProductCall& call, Tasks& tasks) {
        Rows rows{};
        cut(call).work(
            tasks, [&](int64_t first, int64_t count) { rows = ready(call, first, count); },
            [&](int64_t first, int64_t panel, int64_t) { one_panel(call, rows, first, panel); });
        V::fence();
    }

    static Rows ready(const ProductCall& call, int64_t first, int64_t count) {
        Rows rows = RowSource<V>::rows(call, first, count);
        rows.passing = passing(call);
        return rows;
    }

    // Is y so large that it passes the caches by? Whole lines can.
    static bool passing(const ProductCall& call) {
        return call.m * call.n * 4 >= kPassing && call.n % 16 == 0 && reinterpret_cast<uintptr_t>(call.y) % 64 == 0;
    }

    static void one_panel(const ProductCall& call, const Rows& rows, int64_t first, int64_t panel) {
        int64_t size = P::kColumns * call.k * call.weight_bits / 8;
        const uint8_t *packed = call.weight + panel * size, *bytes = packed;
        if (call.weight_bits == 4) {
            auto* unpacked = scratch<uint8_t, 7>(call.k * P::kColumns);
            const int32_t* wholes = call.wholes ? call.wholes + panel * call.k / kGroup * P::kColumns : nullptr;
            P::unpack(packed, call.k, wholes, unpacked);
            bytes = unpacked;
        }
        auto next_panel = [&](int64_t row, int64_t count) {  // fetched, a part with each tile
            for (int64_t i = row * size / rows.count; i < (row + count) * size / rows.count; i += 64)
                __builtin_prefetch(packed + size + i, 0, 2);
        };
        if constexpr (V::wide_sums)
            if (rows.whole) return tiles<V::whole_rows>(rows.count, [&](auto R, int64_t row) {
                next_panel(row, R);
                whole_tile<R.value>(call, rows, row, first, panel, bytes);
            });
        tiles<V::rows>(rows.count, [&](auto R, int64_t row) {
            next_panel(row, R);
            bool in_image = call.window && !call.window->places;
            auto* pass = in_image      ? &tile<R.value, true, false>
                         : rows.scaled ? &tile<R.value, true, true>
                                       : &tile<R.value, false, true>;
            pass(call, rows, row, first, panel, bytes);
        });
    }

    // R rows by one panel where each row and each column has one scale: integers alone until all of K is summed. They take the
    // registers that float sums would have, so a tile has twice as many rows.
    template <int R>
    static void whole_tile(const ProductCall& call, const Rows& rows, int64_t row, int64_t first, int64_t panel, const uint8_t* w) {
        constexpr int kAtOnce = V::rows;  // rows that are finished at once
        typename V::Sum low[R], high[R];
        const int8_t* codes = rows.codes + rows.code.rows[row];
        const float* s = call.weight_scales + panel * P::kColumns;
        unroll<R>([&](auto r) { low[r] = high[r] = V::start_sum(rows.starts[rows.start.rows[row + r]]); });
        int64_t groups = call.k / kGroup, share = (R + groups - 1) / groups;  // rows that are fetched for with a group: few at once
        for (int64_t g = 0; g < groups; ++g, codes += kGroup * V::whole_rows) {
            fetch(call, rows, row + g * share, row + std::min<int64_t>(R, (g + 1) * share), first, panel);
            for (int i = 0; i < kGroup; i += 4, w += 4 * P::kColumns) {
                auto w_low = V::load_bytes(w), w_high = V::load_bytes(w + 4 * V::width);
                unroll<R>([&](auto r) {
                    auto x = V::set_four(codes + r * kGroup + i);
                    low[r] = V::dot(low[r], w_low, x);
                    high[r] = V::dot(high[r], w_high, x);
                });
            }
        }
        auto s_low = V::load(s), s_high = V::load(s + V::width);
        unroll<(R + kAtOnce - 1) / kAtOnce>([&](auto part) {
            constexpr int kFrom = part * kAtOnce, kCount = std::min(kAtOnce, R - kFrom);
            Float a[kCount], b[kCount];
            unroll<kCount>([&](auto r) {
                a[r] = V::mul(V::total(low[kFrom + r]), s_low);
                b[r] = V::mul(V::total(high[kFrom + r]), s_high);
            });
            finish<kCount>(call, rows, row + kFrom, first, panel, a, b);
        });
    }

    // Where the results of rows [begin, end) go and their residuals lie, so that a tile's end does not wait for memory. No call: it
    // would cost a tile its registers.
    [[gnu::always_inline]] static void fetch(const ProductCall& call, const Rows& rows, int64_t begin, int64_t end, int64_t first,
                                             int64_t panel) {
        for (int64_t row = begin; row < end; ++row)
            for (int64_t column = panel * P::kColumns; column < (panel + 1) * P::kColumns; column += 16) {
                if (!rows.passing) __builtin_prefetch(call.y + (first + row) * call.n + column, 1);
                if (rows.residual) __builtin_prefetch(call.residual.values + rows.residual[row] + column);
            }
    }

    // R rows by one panel. Tiled rows lie beside each other, a group of codes at a time, so that one address serves them all;
    // others have an address each.
    template <int R, bool Scaled, bool Tiled>
    static void tile(const ProductCall& call, const Rows& rows, int64_t row, int64_t first, int64_t panel, const uint8_t* w) {
        const int64_t *code_rows = rows.code.rows + row, *start_rows = rows.start.rows + row, *scale_rows = rows.scale.rows + row;
        const float* scales = call.weight_scales + panel * call.weight_groups * P::kColumns;
        int64_t groups = call.k / kGroup;
        FloatSums<V, R> sums;
        fetch(call, rows, row, row + R, first, panel);
        for (int64_t g = 0; g < groups; g += rows.wide) {
            typename V::Sum low[R], high[R];
            constexpr int kAddresses = Tiled ? 1 : R;
            const int8_t* codes[kAddresses];
            unroll<R>([&](auto r) { low[r] = high[r] = V::start_sum(rows.starts[start_rows[r] + rows.start.groups[g]]); });
            for (int64_t part = g; part < g + rows.wide; ++part) {
                unroll<kAddresses>([&](auto r) { codes[r] = rows.codes + code_rows[r] + rows.code.groups[part]; });
                for (int i = 0; i < kGroup / 16; ++i) {
                    unroll<4>([&](auto j) {
                        auto w_low = V::load_bytes(w), w_high = V::load_bytes(w + 4 * V::width);
                        unroll<R>([&](auto r) {
                            auto x = V::set_four(Tiled ? codes[0] + r * kGroup + 4 * j : codes[r % kAddresses] + 4 * j);
                            low[r] = V::dot(low[r], w_low, x);
                            high[r] = V::dot(high[r], w_high, x);
                        });
                        w += 4 * P::kColumns;
                    });
                    unroll<kAddresses>([&](auto r) { codes[r] += 16; });
                }
            }
            const float* s = scales + g * call.weight_groups / groups * P::kColumns;
            auto s_low = V::load(s), s_high = V::load(s + V::width);
            sums.settle();
            unroll<R>([&](auto r) {
                auto t_low = V::total(low[r]), t_high = V::total(high[r]);
                if constexpr (Scaled) {
                    auto scale = V::set(rows.scales[scale_rows[r] + rows.scale.groups[g]]);
                    t_low = V::mul(t_low, scale);
                    t_high = V::mul(t_high, scale);
                }
                sums.add(r, t_low, s_low, t_high, s_high);
            });
            sums.settle();
        }
        Float low[R], high[R];
        sums.give(low, high);
        finish<R>(call, rows, row, first, panel, low, high);
    }

    // Adds the low-rank branch of R rows and one panel.
    template <int R>
    [[gnu::always_inline]] static void add_branch(const ProductCall& call, const Rows& rows, int64_t row, int64_t panel,
                                                  Float (&low)[R], Float (&high)[R]) {
        if constexpr (Bytes<V>::kUp)
            if (call.branch_bits == 8) return add_bytes<R>(call, rows, row, panel, low, high);
        int64_t stride = Words<V>::stride(call.rank), pairs = (call.rank + 1) / 2;
        const auto *h = static_cast<const int16_t*>(rows.h) + row * stride, *up = static_cast<const int16_t*>(call.up);
        Float sums[2 * R];
        Words<V>::template multiply<R, 2>(h, stride, up + panel * pairs * 2 * P::kColumns, call.rank, sums);
        const float* scales = call.up_scales + panel * P::kColumns;
        auto s_low = V::load(scales), s_high = V::load(scales + V::width);
        unroll<R>([&](auto r) {
            auto scale = V::set(rows.h_scales[row + r]);
            low[r] = V::fma(V::mul(sums[2 * r], scale), s_low, low[r]);
            high[r] = V::fma(V::mul(sums[2 * r + 1], scale), s_high, high[r]);
        });
    }

    template <int R>
    [[gnu::always_inline]] static void add_bytes(const ProductCall& call, const Rows& rows, int64_t row, int64_t panel,
                                                 Float (&low)[R], Float (&high)[R]) {
        using B = Bytes<V>;
        const auto* h = static_cast<const int8_t*>(rows.h) + row * B::stride(call.rank);
        const auto* up = static_cast<const uint8_t*>(call.up) + panel * B::deep(call.rank) * P::kColumns;
        Float h_low[R], h_high[R];
        B::template multiply<R>(h, rows.h_starts + row, call.rank, up, h_low, h_high);
        unroll<R>([&](auto r) {
            auto scale = V::set(rows.h_scales[row + r]);
            low[r] = V::fma(h_low[r], scale, low[r]);
            high[r] = V::fma(h_high[r], scale, high[r]);
        });
    }

    // The low-rank branch, the bias, the activation, gate and residual, and out.
    template <int R>
    [[gnu::always_inline]] static void finish(const ProductCall& call, const Rows& rows, int64_t row, int64_t first,
                                              int64_t panel, Float (&low)[R], Float (&high)[R]) {
        const float* bias = call.bias ? call.bias + panel * P::kColumns : nullptr;
        auto b_low = bias ? V::load(bias) : V::zero(), b_high = bias ? V::load(bias + V::width) : V::zero();
        unroll<R>([&](auto r) {
            auto scale = V::set(rows.scaled ? 1.0f : rows.scales[row + r]);
            low[r] = V::fma(low[r], scale, b_low);
            high[r] = V::fma(high[r], scale, b_high);
        });
        if (call.h) add_branch<R>(call, rows, row, panel, low, high);
        if (more_to_do(call, rows, panel)) {
            Float a[R], b[R];  // with an address, which would keep the others out of registers
            std::copy(low, low + R, a);
            std::copy(high, high + R, b);
            for (int r = 0; r < R; ++r) leave(call, rows, row + r, first, panel, a[r], b[r]);
            return;
        }
        unroll<R>([&](auto r) { put(call, rows, row + r, first, panel, low[r], high[r]); });
    }

    static void put(const ProductCall& call, const Rows& rows, int64_t row, int64_t first, int64_t panel, Float low, Float high) {
        float* y = call.y + (first + row) * call.n + panel * P::kColumns;
        auto* store = rows.passing ? &V::stream : &V::store;
        store(y, low);
        store(y + V::width, high);
    }

    static bool more_to_do(const ProductCall& call, const Rows& rows, int64_t panel) {
        return (call.activation && !call.paired) || rows.gate || rows.residual || call.n < (panel + 1) * P::kColumns;
    }

    // One row's activation, gate and residual, and out.
    [[gnu::noinline]] static void leave(const ProductCall& call, const Rows& rows, int64_t row, int64_t first, int64_t panel,
                                        Float& low, Float& high) {
        int64_t column = panel * P::kColumns, left = call.n - column;
        finish_row(call, rows, row, column, low, high);
        float* y = call.y + (first + row) * call.n + column;
        if (!rows.passing || left < P::kColumns) return store_some<V>(y, low, high, left);
        V::stream(y, low);
        V::stream(y + V::width, high);
    }

    // One row's activation, gate and residual, in registers.
    template <class Activations = Activations<V>>
    [[gnu::always_inline]] static void finish_row(const ProductCall& call, const Rows& rows, int64_t row, int64_t column,
                                                  Float& low, Float& high) {
        int64_t left = call.n - column;
        if (call.activation && !call.paired) {
            low = Activations::apply(call.activation, low);
            high = Activations::apply(call.activation, high);
        }
        Float v_low, v_high;
        if (rows.gate) {
            load_some<V>(call.gate.values + rows.gate[row] + column, left, v_low, v_high);
            low = V::mul(low, v_low);
            high = V::mul(high, v_high);
        }
        if (rows.residual) {
            load_some<V>(call.residual.values + rows.residual[row] + column, left, v_low, v_high);
            low = V::add(low, v_low);
            high = V::add(high, v_high);
        }
    }
};

}  // namespace aquatint
