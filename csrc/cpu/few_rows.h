// y (M, N) = x (M, K) weight^T + bias in float for few rows: the embeddings of time and label. Each weight is read once, where
// it lies.
#pragma once

#include <algorithm>

#include "cpu/kernel_table.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct FewRows {
    static constexpr int kRows = 2, kOutputs = 4;
    static constexpr int64_t kShare = 32;  // outputs a task

    static int64_t tasks(const LinearCall& call, int) { return (call.n + kShare - 1) / kShare; }

    static void run(const LinearCall& call, int64_t task, int64_t) {
        int64_t first = task * kShare, count = std::min(kShare, call.n - first);
        tiles<kOutputs>(count, [&](auto C, int64_t output) {
            tiles<kRows>(call.m, [&](auto R, int64_t row) { cell<R.value, C.value>(call, row, first + output); });
        });
    }

    template <int R, int C>
    static void cell(const LinearCall& call, int64_t row, int64_t output) {
        const float *x = call.x + row * call.k, *w = call.weight + output * call.k;
        typename V::Float sums[R * C];
        unroll<R * C>([&](auto i) { sums[i] = V::zero(); });
        int64_t k = 0;
        for (; k + V::width <= call.k; k += V::width)
            unroll<C>([&](auto c) {
                auto weight = V::load(w + c * call.k + k);
                unroll<R>([&](auto r) { sums[r * C + c] = V::fma(V::load(x + r * call.k + k), weight, sums[r * C + c]); });
            });
        unroll<R * C>([&](auto i) {
            constexpr int r = i / C, c = i % C;
            float total = sum_of<V>(sums[i]) + (call.bias ? call.bias[output + c] : 0.0f);
            for (int64_t j = k; j < call.k; ++j) total += x[r * call.k + j] * w[c * call.k + j];
            call.y[(row + r) * call.n + output + c] = total;
        });
    }
};

}  // namespace aquatint
