// 3 x 3 convolution in float by squares of 2 x 2 outputs: 16 products for what are 36 (Winograd's F(2 x 2, 3 x 3); Lavin and
// Gray, arXiv 1509.09308). An output is the same number whatever else of its square is computed: what it does not see does
// not enter into it.
//
//   weight  (n / P, 16, k, P): G g G^T, in panels
//   places  of the window, if given: (squares, 20), the 16 pixels that a square sees, row by row, and its 4 outputs; -1 for none
//   m       squares, of all images
#pragma once

#include <algorithm>

#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Winograd {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int kRows = V::many_registers ? 2 * V::rows : V::rows;
    static constexpr int kSeen = 16, kOutputs = 4;
    static constexpr int64_t kMost = 64;  // squares a block

    static int64_t block(const LinearCall& call) { return even_block(call.m, kMost); }

    static int64_t tasks(const LinearCall& call) {
        return call.m ? (call.m + block(call) - 1) / block(call) * P::count(call.n) : 0;
    }

    // Each thread transforms a block once, for all panels that it gets of it.
    static void work(const LinearCall& call, Tasks& tasks) {
        int64_t ready = -1;
        const float* x = nullptr;
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t first = task / P::count(call.n) * block(call), count = std::min(block(call), call.m - first);
            if (first != ready) x = transformed(call, first, count);
            ready = first;
            panel(call, x, first, count, task % P::count(call.n));
        }
    }

    // Where a square's pixels and outputs lie in the image, -1 for none.
    struct Square {
        int64_t image;
        int32_t seen[kSeen], outputs[kOutputs];

        Square(const LinearCall& call, int64_t number) {
            const Window& w = *call.window;
            image = number / w.squares, number %= w.squares;
            if (w.places) {
                const int32_t* from = w.places + number * (kSeen + kOutputs);
                std::copy_n(from, kSeen, seen);
                std::copy_n(from + kSeen, kOutputs, outputs);
                return;
            }
            int64_t across = (w.columns + 1) / 2, y = number / across * 2, x = number % across * 2;
            for (int i = 0; i < kSeen; ++i) seen[i] = inside(y - w.padding[0] + i / 4, x - w.padding[1] + i % 4, w.height, w.width);
            for (int i = 0; i < kOutputs; ++i) outputs[i] = inside(y + i / 2, x + i % 2, w.rows, w.columns);
        }

        static int32_t inside(int64_t y, int64_t x, int64_t height, int64_t width) {
            return y >= 0 && y < height && x >= 0 && x < width ? int32_t(y * width + x) : -1;
        }
    };

    static Float minus(Float a, Float b) { return V::fma(b, V::set(-1.0f), a); }

    // B^T d B of every square: (16, count, k).
    static const float* transformed(const LinearCall& call, int64_t first, int64_t count) {
        const Window& w = *call.window;
        float* to = scratch<float, 0>(kSeen * count * call.k);
        float* nothing = scratch<float, 1>(call.k);
        std::fill_n(nothing, call.k, 0.0f);
        for (int64_t i = 0; i < count; ++i) {
            Square square(call, first + i);
            const float* from[kSeen];
            for (int j = 0; j < kSeen; ++j)
                from[j] = square.seen[j] < 0 ? nothing : call.x + (square.image * w.height * w.width + square.seen[j]) * call.k;
            for (int64_t c = 0; c < call.k; c += V::width) {
                Float d[kSeen], t[kSeen];
                unroll<kSeen>([&](auto j) { d[j] = V::load(from[j] + c); });
                unroll<4>([&](auto j) { before(&d[j], 4, &t[j], 4); });
                unroll<4>([&](auto j) { before(&t[4 * j], 1, &d[4 * j], 1); });
                unroll<kSeen>([&](auto j) { V::store(to + (j * count + i) * call.k + c, d[j]); });
            }
        }
        return to;
    }

    [[gnu::always_inline]] static void before(const Float* d, int step, Float* t, int apart) {
        t[0] = minus(d[0], d[2 * step]);
        t[apart] = V::add(d[step], d[2 * step]);
        t[2 * apart] = minus(d[2 * step], d[step]);
        t[3 * apart] = minus(d[step], d[3 * step]);
    }

    [[gnu::always_inline]] static void after(const Float* m, int step, Float* y, int apart) {
        y[0] = V::add(V::add(m[0], m[step]), m[2 * step]);
        y[apart] = minus(minus(m[step], m[2 * step]), m[3 * step]);
    }

    static void panel(const LinearCall& call, const float* x, int64_t first, int64_t count, int64_t number) {
        constexpr int64_t columns = P::kColumns;
        const float* weight = static_cast<const float*>(call.weight) + number * kSeen * call.k * columns;
        float* products = scratch<float, 2>(kSeen * count * columns);
        for (int64_t j = 0; j < kSeen; ++j)
            tiles<kRows>(count, [&](auto R, int64_t i) {
                multiplied<R.value>(x + (j * count + i) * call.k, weight + j * call.k * columns, call.k,
                                    products + (j * count + i) * columns);
            });
        Float bias[2] = {V::zero(), V::zero()};
        int64_t column = number * columns;
        if (call.bias) load_some<V>(call.bias + column, call.n - column, bias[0], bias[1]);
        for (int64_t i = 0; i < count; ++i) finish(call, Square(call, first + i), products + i * columns, count, bias, column);
    }

    template <int R>
    static void multiplied(const float* x, const float* weight, int64_t k, float* to) {
        Float sums[2 * R];
        multiply<V, R, 2>(x, k, weight, k, sums);
        unroll<2 * R>([&](auto i) { V::store(to + i * V::width, sums[i]); });
    }

    // A^T m A, and the bias: the square's outputs.
    static void finish(const LinearCall& call, const Square& square, const float* products, int64_t count, const Float (&bias)[2],
                       int64_t column) {
        Float y[2][kOutputs];
        unroll<2>([&](auto half) {
            Float m[kSeen], t[8];
            unroll<kSeen>([&](auto j) { m[j] = V::load(products + j * count * P::kColumns + half * V::width); });
            unroll<4>([&](auto j) { after(&m[j], 4, &t[j], 4); });
            unroll<2>([&](auto j) { after(&t[4 * j], 1, &y[half][2 * j], 1); });
        });
        unroll<kOutputs>([&](auto j) {
            if (square.outputs[j] < 0) return;
            float* to = call.y + (square.image * call.window->outputs() + square.outputs[j]) * call.n + column;
            store_some<V>(to, V::add(y[0][j], bias[0]), V::add(y[1][j], bias[1]), call.n - column);
        });
    }
};

}  // namespace aquatint
