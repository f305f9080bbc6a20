// y (M, N) = activation(x (M, K) weight^T + bias) in float: what stays as it is at a model's ends, where a call of the library
// would take longer than the arithmetic. Few rows or few outputs: the weight, in float or in 8 bits, is read once, where it lies.
// Else it lies in panels. With a window the rows are gathered from an image.
#pragma once

#include <algorithm>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Linear {
    using P = Panels<V>;
    static constexpr int kRows = 2, kOutputs = 4;  // of a tile of dot products
    static constexpr int64_t kShare = 32;          // outputs a task
    static constexpr int64_t kBlock = 48;          // rows a task

    static int64_t shares(const LinearCall& call) { return (call.n + kShare - 1) / kShare; }

    static int64_t tasks(const LinearCall& call) { return (call.m + kBlock - 1) / kBlock * shares(call); }

    static void run(const LinearCall& call, int64_t task) {
        int64_t row = task / shares(call) * kBlock, rows = std::min(kBlock, call.m - row);
        int64_t output = task % shares(call) * kShare, outputs = std::min(kShare, call.n - output);
        const float* x = call.window ? gathered(call, row, rows) : call.x + row * call.k;
        float* y = call.y + row * call.n;
        if (call.scales)
            in_dots(call, static_cast<const int8_t*>(call.weight), x, rows, output, outputs, y);
        else if (!call.panels)
            in_dots(call, static_cast<const float*>(call.weight), x, rows, output, outputs, y);
        else
            for (int64_t first = output; first < output + outputs; first += P::kColumns)
                tiles<V::rows>(rows, [&](auto R, int64_t i) { panel<R.value>(call, x + i * call.k, first, y + i * call.n); });
        for (int64_t i = 0; call.activation && i < rows; ++i) activate(call, y + i * call.n + output, outputs);
    }

    static void activate(const LinearCall& call, float* y, int64_t count) {
        for (; count > 0; y += P::kColumns, count -= P::kColumns) {
            typename V::Float low, high;
            load_some<V>(y, count, low, high);
            store_some<V>(y, Activations<V>::apply(call.activation, low), Activations<V>::apply(call.activation, high), count);
        }
    }

    template <class T>
    static void in_dots(const LinearCall& call, const T* weight, const float* x, int64_t rows, int64_t output, int64_t outputs,
                        float* y) {
        tiles<kOutputs>(outputs, [&](auto C, int64_t j) {
            tiles<kRows>(rows, [&](auto R, int64_t i) {
                dots<R.value, C.value>(call, weight + (output + j) * call.k, x + i * call.k, output + j, y + i * call.n);
            });
        });
    }

    template <int R>
    static void panel(const LinearCall& call, const float* x, int64_t first, float* y) {
        typename V::Float sums[R * 2];
        multiply<V, R, 2>(x, call.k, static_cast<const float*>(call.weight) + first * call.k, call.k, sums);
        auto b_low = V::zero(), b_high = V::zero();
        if (call.bias) load_some<V>(call.bias + first, call.n - first, b_low, b_high);
        unroll<R>([&](auto r) {
            store_some<V>(y + r * call.n + first, V::add(sums[2 * r], b_low), V::add(sums[2 * r + 1], b_high), call.n - first);
        });
    }

    static auto read(const float* p) { return V::load(p); }
    static auto read(const int8_t* p) { return V::load_codes(p); }

    template <int R, int C, class T>
    static void dots(const LinearCall& call, const T* w, const float* x, int64_t output, float* y) {
        typename V::Float sums[R * C];
        unroll<R * C>([&](auto i) { sums[i] = V::zero(); });
        int64_t k = 0;
        for (; k + V::width <= call.k; k += V::width)
            unroll<C>([&](auto c) {
                auto weight = read(w + c * call.k + k);
                unroll<R>([&](auto r) { sums[r * C + c] = V::fma(V::load(x + r * call.k + k), weight, sums[r * C + c]); });
            });
        unroll<R * C>([&](auto i) {
            constexpr int r = i / C, c = i % C;
            float total = sum_of<V>(sums[i]);
            for (int64_t j = k; j < call.k; ++j) total += x[r * call.k + j] * float(w[c * call.k + j]);
            y[r * call.n + output + c] = total * (call.scales ? call.scales[output + c] : 1.0f) + (call.bias ? call.bias[output + c] : 0.0f);
        });
    }

    // The pixels that each row sees, tap by tap.
    static const float* gathered(const LinearCall& call, int64_t first, int64_t count) {
        const Window& w = *call.window;
        float* to = scratch<float, 0>(count * call.k);
        const float* begin = to;
        for (int64_t i = first; i < first + count; ++i) {
            const float* image = call.x + i / (w.rows * w.columns) * w.height * w.width * w.channels;
            int64_t top = i / w.columns % w.rows * w.stride[0] - w.padding[0], left = i % w.columns * w.stride[1] - w.padding[1];
            for (int64_t tap = 0; tap < w.taps[0] * w.taps[1]; ++tap, to += w.channels) {
                int64_t y = top + tap / w.taps[1] * w.dilation[0], x = left + tap % w.taps[1] * w.dilation[1];
                bool inside = y >= 0 && y < w.height && x >= 0 && x < w.width;
                if (inside)
                    std::copy_n(image + (y * w.width + x) * w.channels, w.channels, to);
                else
                    std::fill_n(to, w.channels, 0.0f);
            }
        }
        return begin;
    }
};

}  // namespace aquatint
