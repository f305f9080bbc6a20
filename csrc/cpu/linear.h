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
    static constexpr int kRows = 4, kSums = 4;  // of a tile of dot products, and of each of them
    static constexpr int64_t kAhead = 4096;     // weights that are fetched ahead
    static constexpr int64_t kShare = 32;       // outputs a task
    static constexpr int64_t kMost = 64;        // rows a task

    static int64_t shares(const LinearCall& call) { return (call.n + kShare - 1) / kShare; }

    static int64_t block(const LinearCall& call) { return even_block(call.m, kMost); }

    static int64_t tasks(const LinearCall& call) {
        return call.m ? (call.m + block(call) - 1) / block(call) * shares(call) : 0;
    }

    // Each thread gathers the rows of a block once, for all tasks that it gets of that block.
    static void work(const LinearCall& call, Tasks& tasks) {
        int64_t ready = -1;
        const float* x = nullptr;
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t row = task / shares(call) * block(call), rows = std::min(block(call), call.m - row);
            if (row != ready) x = call.window ? gathered(call, row, rows) : call.x + row * call.k;
            ready = row;
            run(call, x, row, rows, task % shares(call) * kShare);
        }
    }

    static void run(const LinearCall& call, const float* x, int64_t row, int64_t rows, int64_t output) {
        int64_t outputs = std::min(kShare, call.n - output);
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
        for (int64_t j = output; j < output + outputs; ++j)
            tiles<kRows>(rows, [&](auto R, int64_t i) {
                dots<R.value>(call, weight + j * call.k, x + i * call.k, j, y + i * call.n);
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

    // R rows by one output, whose weights are read as they lie: several outputs at once came at half the rate from memory. Each
    // dot product is a few sums along k, or an addition would wait for the one before it.
    template <int R, class T>
    static void dots(const LinearCall& call, const T* w, const float* x, int64_t output, float* y) {
        typename V::Float sums[R * kSums];
        unroll<R * kSums>([&](auto i) { sums[i] = V::zero(); });
        auto add = [&](auto part, int64_t i) {
            auto weight = read(w + i);
            __builtin_prefetch(w + i + kAhead);
            unroll<R>([&](auto r) {
                auto& sum = sums[r * kSums + part];
                sum = V::fma(V::load(x + r * call.k + i), weight, sum);
            });
        };
        int64_t k = 0;
        for (; k + kSums * V::width <= call.k; k += kSums * V::width)
            unroll<kSums>([&](auto part) { add(part, k + part * V::width); });
        for (; k + V::width <= call.k; k += V::width) add(std::integral_constant<int, 0>{}, k);
        float scale = call.scales ? call.scales[output] : 1.0f, bias = call.bias ? call.bias[output] : 0.0f;
        unroll<R>([&](auto r) {
            auto* parts = sums + r * kSums;
            float total = sum_of<V>(V::add(V::add(parts[0], parts[1]), V::add(parts[2], parts[3])));
            for (int64_t j = k; j < call.k; ++j) total += x[r * call.k + j] * float(w[j]);
            y[r * call.n + output] = total * scale + bias;
        });
    }

    // The pixels that each row sees, tap by tap.
    static const float* gathered(const LinearCall& call, int64_t first, int64_t count) {
        const Window& w = *call.window;
        float* to = scratch<float, 0>(count * call.k);
        const float* begin = to;
        for (int64_t i = first; i < first + count; ++i)
            for (int64_t tap = 0; tap < w.seen(); ++tap, to += w.channels) {
                int64_t pixel = w.pixel(i, tap);
                if (pixel < 0)
                    std::fill_n(to, w.channels, 0.0f);
                else
                    std::copy_n(call.x + pixel * w.channels, w.channels, to);
            }
        return begin;
    }
};

}  // namespace aquatint
