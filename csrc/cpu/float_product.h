// y (M, N) = x (M, K) in float times a 4-bit weight, for few rows: time stamps, labels, modulation. Reading the weight is
// what takes the time, so codes become floats in registers, straight from the packed panel.
#pragma once

#include <algorithm>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct FloatProduct {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int kRows = 4;
    static constexpr int64_t kShare = 4;  // panels a task
    static constexpr int64_t kAhead = 2048;  // bytes that a weight is fetched ahead: processors alone do not keep up

    static int64_t tasks(const ProductCall& call) { return (P::count(call.n) + kShare - 1) / kShare; }

    static void run(const ProductCall& call, int64_t task) {
        int64_t last = std::min(P::count(call.n), (task + 1) * kShare);
        for (int64_t panel = task * kShare; panel < last; ++panel)
            tiles<kRows>(call.m, [&](auto R, int64_t row) { tile<R.value>(call, panel, row); });
    }

    template <int R>
    static void tile(const ProductCall& call, int64_t panel, int64_t row) {
        const float* x = static_cast<const float*>(call.x) + row * call.k;
        const uint8_t* w = call.weight + panel * P::kColumns * call.k / 2;
        const float* scales = call.weight_scales + panel * call.k / kGroup * P::kColumns;
        const float* bias = call.bias ? call.bias + panel * P::kColumns : nullptr;
        Float low[R], high[R];
        unroll<R>([&](auto r) {
            low[r] = bias ? V::load(bias) : V::zero();
            high[r] = bias ? V::load(bias + V::width) : V::zero();
        });
        for (int64_t k = 0; k < call.k; k += kGroup, scales += P::kColumns) {
            Float sum_low[R], sum_high[R];
            unroll<R>([&](auto r) { sum_low[r] = sum_high[r] = V::zero(); });
            for (int i = 0; i < kGroup; i += 4, w += 4 * V::width) {
                __builtin_prefetch(w + kAhead);
                auto codes = V::load_bytes(w);
                unroll<4>([&](auto j) {
                    auto w_low = V::nibble(codes, 8 * j), w_high = V::nibble(codes, 8 * j + 4);
                    unroll<R>([&](auto r) {
                        auto value = V::set(x[r * call.k + k + i + j]);
                        sum_low[r] = V::fma(value, w_low, sum_low[r]);
                        sum_high[r] = V::fma(value, w_high, sum_high[r]);
                    });
                });
            }
            unroll<R>([&](auto r) {
                low[r] = V::fma(sum_low[r], V::load(scales), low[r]);
                high[r] = V::fma(sum_high[r], V::load(scales + V::width), high[r]);
            });
        }
        unroll<R>([&](auto r) {
            auto left = Activations<V>::apply(call.activation, low[r]), right = Activations<V>::apply(call.activation, high[r]);
            store_some<V>(call.y + (row + r) * call.n + panel * P::kColumns, left, right, call.n - panel * P::kColumns);
        });
    }
};

}  // namespace aquatint
