// y = softmax(scale q k^T) v for each head, without a mask. A task is a block of queries of one head; its scores stay in the
// cache, and keys and values are laid out in panels, so that both products run like any other.
#pragma once

#include <algorithm>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Attention {
    using P = Panels<V>;
    using Float = typename V::Float;
    static constexpr int64_t kBlock = 192;  // queries a task at most; keys and values are laid out anew for each

    static int64_t blocks(const AttentionCall& call) { return (call.queries + kBlock - 1) / kBlock; }

    // Blocks of one size but for the last, so that none is left with a few queries.
    static int64_t block(const AttentionCall& call) { return (call.queries + blocks(call) - 1) / blocks(call); }

    static int64_t tasks(const AttentionCall& call, int) { return call.batch * call.heads * blocks(call); }

    static void run(const AttentionCall& call, int64_t task) {
        int64_t first = task % blocks(call) * block(call), head = task / blocks(call) % call.heads;
        int64_t image = task / blocks(call) / call.heads, count = std::min(block(call), call.queries - first);
        int64_t key_panels = P::count(call.keys), wide = key_panels * P::kColumns;
        const float* q = call.q.at(image, head) + first * call.q.row;
        float* queries = scratch<float, 0>(count * call.width);
        for (int64_t i = 0; i < count; ++i) std::copy(q + i * call.q.row, q + i * call.q.row + call.width, queries + i * call.width);
        const float* keys = columns(call, call.k.at(image, head));
        float* scores = scratch<float, 2>(count * wide);
        for (int64_t panel = 0; panel < key_panels; ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                Float low[R.value], high[R.value];
                multiply<V, R.value>(queries + row * call.width, call.width, keys + panel * call.width * P::kColumns, call.width,
                                     low, high);
                unroll<R.value>([&](auto r) {
                    float* to = scores + (row + r) * wide + panel * P::kColumns;
                    V::store(to, V::mul(low[r], V::set(call.scale)));
                    V::store(to + V::width, V::mul(high[r], V::set(call.scale)));
                });
            });
        float* factors = scratch<float, 3>(count);
        for (int64_t i = 0; i < count; ++i) factors[i] = 1.0f / softmax(scores + i * wide, call.keys, wide);
        const float* values = rows(call, call.v.at(image, head));
        float* y = call.y + ((image * call.queries + first) * call.heads + head) * call.width;
        for (int64_t panel = 0; panel < P::count(call.width); ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                Float low[R.value], high[R.value];
                multiply<V, R.value>(scores + row * wide, wide, values + panel * call.keys * P::kColumns, call.keys, low, high);
                unroll<R.value>([&](auto r) {
                    auto factor = V::set(factors[row + r]);
                    int64_t column = panel * P::kColumns;
                    store_some<V>(y + (row + r) * call.heads * call.width + column, V::mul(low[r], factor),
                                  V::mul(high[r], factor), call.width - column);
                });
            });
    }

    // Exponentials of the distances from the largest, in place; their sum.
    static float softmax(float* scores, int64_t count, int64_t wide) {
        std::fill(scores + count, scores + wide, -3e38f);
        auto largest = V::set(-3e38f);
        for (int64_t i = 0; i < wide; i += V::width) largest = V::max(largest, V::load(scores + i));
        float lanes[V::width], most = -3e38f;
        V::store(lanes, largest);
        for (float lane : lanes) most = std::max(most, lane);
        auto centre = V::set(-most), sum = V::zero();
        for (int64_t i = 0; i < wide; i += V::width) {
            auto value = Activations<V>::exp(V::add(V::load(scores + i), centre));
            V::store(scores + i, value);
            sum = V::add(sum, value);
        }
        return sum_of<V>(sum);
    }

    // (keys / P, width, P): a column of keys beside each other; zeros fill the last panel.
    static const float* columns(const AttentionCall& call, const float* k) {
        float* panels = scratch<float, 4>(P::count(call.keys) * P::kColumns * call.width);
        for (int64_t i = 0; i < P::count(call.keys) * P::kColumns; ++i) {
            float* to = panels + i / P::kColumns * P::kColumns * call.width + i % P::kColumns;
            for (int64_t d = 0; d < call.width; ++d) to[d * P::kColumns] = i < call.keys ? k[i * call.k.row + d] : 0.0f;
        }
        return panels;
    }

    // (width / P, keys, P)
    static const float* rows(const AttentionCall& call, const float* v) {
        float* panels = scratch<float, 5>(P::count(call.width) * P::kColumns * call.keys);
        for (int64_t panel = 0; panel < P::count(call.width); ++panel)
            for (int64_t i = 0; i < call.keys; ++i) {
                float* to = panels + (panel * call.keys + i) * P::kColumns;
                Float low, high;
                load_some<V>(v + i * call.v.row + panel * P::kColumns, call.width - panel * P::kColumns, low, high);
                V::store(to, low);
                V::store(to + V::width, high);
            }
        return panels;
    }
};

}  // namespace aquatint
