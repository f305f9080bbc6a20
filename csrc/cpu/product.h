// y (M, N) = activation( sum over groups of scale_x scale_w (codes_x . codes_w) + h up^T + bias )
//
// Codes are multiplied as integers and each group of 64 is summed exactly; groups are added in float32 in ascending order,
// whatever the number of threads. A task is a block of rows by some panels. Per panel the weight is unpacked to bytes in
// pieces that stay in the first-level cache while all tiles of the block pass over them.
#pragma once

#include <algorithm>

#include "cpu/activation.h"
#include "cpu/panels.h"
#include "cpu/rows.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Product {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int64_t kBlock = 96;                   // rows a task at most: a multiple of every tile's
    static constexpr int64_t kPiece = 16384 / P::kColumns;  // k at once: 16 KB of bytes

    static int64_t row_blocks(const ProductCall& call) { return (call.m + kBlock - 1) / kBlock; }

    // Blocks of one size but for the last, so that none is left with a few rows.
    static int64_t block(const ProductCall& call) {
        int64_t even = (call.m + row_blocks(call) - 1) / row_blocks(call);
        return (even + V::rows - 1) / V::rows * V::rows;
    }

    // Enough tasks that no thread waits long for the last one, but none so small that laying out its rows would show.
    static int64_t tasks(const ProductCall& call, int threads) {
        int64_t most = threads > 1 ? 4 * threads : 1, blocks = row_blocks(call);
        int64_t wanted = std::clamp<int64_t>(call.m * call.n * call.k >> 22, threads, most);
        return blocks * std::min(P::count(call.n), (wanted + blocks - 1) / blocks);
    }

    static void run(const ProductCall& call, int64_t task, int64_t tasks) {
        int64_t shares = tasks / row_blocks(call), panels = P::count(call.n);
        int64_t first = task / shares * block(call), share = task % shares;
        if (first >= call.m) return;
        Rows rows = RowSource<V>::rows(call, first, std::min(block(call), call.m - first));
        for (int64_t panel = share * panels / shares; panel < (share + 1) * panels / shares; ++panel)
            one_panel(call, rows, first, panel);
    }

    static void one_panel(const ProductCall& call, const Rows& rows, int64_t first, int64_t panel) {
        auto* sums = scratch<float, 6>(kBlock * P::kColumns);
        auto* bytes = scratch<uint8_t, 7>(kPiece * P::kColumns);
        std::fill(sums, sums + rows.count * P::kColumns, 0.0f);
        for (int64_t k = 0; k < call.k; k += kPiece) {
            int64_t width = std::min(kPiece, call.k - k);
            P::unpack(call.weight + panel * P::kColumns * call.k / 2 + k * P::kColumns / 2, width, bytes);
            const float* scales = call.weight_scales + (panel * call.k + k) / kGroup * P::kColumns;
            tiles<V::rows>(rows.count, [&](auto R, int64_t row) {
                auto* pass = call.window   ? &tile<R.value, true, false>
                             : rows.scaled ? &tile<R.value, true, true>
                                           : &tile<R.value, false, true>;
                pass(rows, row, k, width, bytes, scales, sums + row * P::kColumns);
            });
        }
        tiles<V::rows>(rows.count, [&](auto R, int64_t row) {
            finish<R.value>(call, rows, row, first, panel, sums + row * P::kColumns);
        });
    }

    // R rows by one panel over the groups of [k, k + width). Tiled rows lie beside each other, four codes at a time, so that one
    // address serves them all; others have an address each.
    template <int R, bool Scaled, bool Tiled>
    static void tile(const Rows& rows, int64_t row, int64_t k, int64_t width, const uint8_t* w, const float* s, float* sums) {
        const int64_t *code_rows = rows.code.rows + row, *start_rows = rows.start.rows + row, *scale_rows = rows.scale.rows + row;
        for (int64_t g = k / kGroup; g < (k + width) / kGroup; ++g, s += P::kColumns) {
            typename V::Sum low[R], high[R];
            constexpr int kAddresses = Tiled ? 1 : R, kStep = Tiled ? 4 * V::rows : 4;
            const int8_t* codes[kAddresses];
            unroll<R>([&](auto r) { low[r] = high[r] = V::start_sum(rows.starts[start_rows[r] + rows.start.groups[g]]); });
            unroll<kAddresses>([&](auto r) { codes[r] = rows.codes + code_rows[r] + rows.code.groups[g]; });
            for (int i = 0; i < kGroup / 16; ++i) {
                unroll<4>([&](auto j) {
                    auto w_low = V::load_bytes(w), w_high = V::load_bytes(w + 4 * V::width);
                    unroll<R>([&](auto r) {
                        auto x = V::set_four(Tiled ? codes[0] + j * kStep + 4 * r : codes[r % kAddresses] + j * kStep);
                        low[r] = V::dot(low[r], w_low, x);
                        high[r] = V::dot(high[r], w_high, x);
                    });
                    w += 4 * P::kColumns;
                });
                unroll<kAddresses>([&](auto r) { codes[r] += 4 * kStep; });
            }
            leave_in_memory();  // the sums in float: the registers are full
            auto s_low = V::load(s), s_high = V::load(s + V::width);
            unroll<R>([&](auto r) {
                float* left = sums + r * P::kColumns;
                float* right = left + V::width;
                auto t_low = V::total(low[r]), t_high = V::total(high[r]);
                if constexpr (Scaled) {
                    auto scale = V::set(rows.scales[scale_rows[r] + rows.scale.groups[g]]);
                    t_low = V::mul(t_low, scale);
                    t_high = V::mul(t_high, scale);
                }
                V::store(left, V::fma(t_low, s_low, V::load(left)));
                V::store(right, V::fma(t_high, s_high, V::load(right)));
            });
            leave_in_memory();
        }
    }

    // The low-rank branch, the bias, the activation, gate and residual, and out.
    template <int R>
    static void finish(const ProductCall& call, const Rows& rows, int64_t row, int64_t first, int64_t panel, const float* sums) {
        Float low[R], high[R];
        const float* bias = call.bias ? call.bias + panel * P::kColumns : nullptr;
        auto b_low = bias ? V::load(bias) : V::zero(), b_high = bias ? V::load(bias + V::width) : V::zero();
        unroll<R>([&](auto r) {
            auto scale = V::set(rows.scaled ? 1.0f : rows.scales[row + r]);
            low[r] = V::fma(V::load(sums + r * P::kColumns), scale, b_low);
            high[r] = V::fma(V::load(sums + r * P::kColumns + V::width), scale, b_high);
        });
        const float* up = call.up + panel * call.rank * P::kColumns;
        for (int64_t i = 0; i < call.rank; ++i, up += P::kColumns) {
            auto u_low = V::load(up), u_high = V::load(up + V::width);
            unroll<R>([&](auto r) {
                auto value = V::set(rows.h[(row + r) * call.rank + i]);
                low[r] = V::fma(value, u_low, low[r]);
                high[r] = V::fma(value, u_high, high[r]);
            });
        }
        int64_t column = panel * P::kColumns, left = call.n - column;
        unroll<R>([&](auto r) {
            if (call.activation) {
                low[r] = Activations<V>::apply(call.activation, low[r]);
                high[r] = Activations<V>::apply(call.activation, high[r]);
            }
            Float v_low, v_high;
            if (rows.gate) {
                load_some<V>(call.gate.values + rows.gate[row + r] + column, left, v_low, v_high);
                low[r] = V::mul(low[r], v_low);
                high[r] = V::mul(high[r], v_high);
            }
            if (rows.residual) {
                load_some<V>(call.residual.values + rows.residual[row + r] + column, left, v_low, v_high);
                low[r] = V::add(low[r], v_low);
                high[r] = V::add(high[r], v_high);
            }
            store_some<V>(call.y + (first + row + r) * call.n + column, low[r], high[r], left);
        });
    }
};

}  // namespace aquatint
