// y (M, N) of a convolution in which each channel sees itself alone: weight (taps, N) in float, pixels as the window says.
#pragma once

#include <algorithm>

#include "cpu/kernel_table.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Depthwise {
    static constexpr int64_t kColumns = 2 * V::width;
    static constexpr int64_t kBlock = 32;  // rows a task

    static int64_t tasks(const LinearCall& call) { return (call.m + kBlock - 1) / kBlock; }

    static void run(const LinearCall& call, int64_t task) {
        for (int64_t row = task * kBlock; row < std::min((task + 1) * kBlock, call.m); ++row)
            for (int64_t first = 0; first < call.n; first += kColumns) columns(call, row, first);
    }

    static void columns(const LinearCall& call, int64_t row, int64_t first) {
        int64_t count = call.n - first;
        auto low = V::zero(), high = V::zero();
        if (call.bias) load_some<V>(call.bias + first, count, low, high);
        for (int64_t tap = 0; tap < call.k; ++tap) {
            int64_t pixel = call.window->pixel(row, tap);
            if (pixel < 0) continue;
            typename V::Float x_low, x_high, w_low, w_high;
            load_some<V>(call.x + pixel * call.n + first, count, x_low, x_high);
            load_some<V>(static_cast<const float*>(call.weight) + tap * call.n + first, count, w_low, w_high);
            low = V::fma(x_low, w_low, low);
            high = V::fma(x_high, w_high, high);
        }
        store_some<V>(call.y + row * call.n + first, low, high, count);
    }
};

}  // namespace aquatint
