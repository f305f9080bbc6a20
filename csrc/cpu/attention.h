// y = softmax(scale q k^T) v for each head, without a mask. A task is a block of queries of one head, whose scores stay in the
// cache; keys and values are laid out in panels, once a head for each thread. q k^T is multiplied in words, the rest in float.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"
#include "cpu/words.h"

namespace aquatint {

template <class V>
struct Attention {
    using P = Panels<V>;
    using W = Words<V>;
    using Float = typename V::Float;
    static constexpr int64_t kBlock = 96, kScores = 49152;  // queries and scores a task at most

    static int64_t key_panels(const AttentionCall& call) { return P::count(call.keys); }

    // Blocks of one size but for the last, so that none is left with a few queries.
    static int64_t block(const AttentionCall& call) {
        int64_t most = std::clamp<int64_t>(kScores / (key_panels(call) * P::kColumns), V::rows, kBlock);
        int64_t count = (call.queries + most - 1) / most;
        return (call.queries + count - 1) / count;
    }

    static int64_t blocks(const AttentionCall& call) { return (call.queries + block(call) - 1) / block(call); }

    static int64_t tasks(const AttentionCall& call) { return call.batch * call.heads * blocks(call); }

    // A head's keys as words (keys / P, width / 2, P, 2) with a scale each; its values in panels (width / P, keys, P), of which the
    // last is half as wide where that is enough.
    struct Head {
        const int16_t* keys;
        const float* scales;
        const float* values;
    };

    // Exponentials of the distances from each query's largest score, a row each, and one over each row's sum.
    struct Shares {
        const float *rows, *factors;
    };

    static void work(const AttentionCall& call, Tasks& tasks) {
        int64_t ready = -1;
        Head laid_out{};
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t index = task / blocks(call), image = index / call.heads, head = index % call.heads;
            if (index != ready) laid_out = lay_out(call, call.k.at(image, head), call.v.at(image, head));
            ready = index;
            int64_t first = task % blocks(call) * block(call), count = std::min(block(call), call.queries - first);
            if (count <= 0) continue;
            Shares shares = attend(call, call.q.at(image, head) + first * call.q.row, count, laid_out);
            float* y = call.y + ((image * call.queries + first) * call.heads + head) * call.width;
            for (int64_t column = 0; column < call.width; column += P::kColumns)
                tiles<V::rows>(count, [&](auto R, int64_t row) {
                    auto* part = call.width - column > V::width ? &weigh<R.value, 2> : &weigh<R.value, 1>;
                    part(call, shares, row, laid_out.values, column, y);
                });
        }
    }

    static Shares attend(const AttentionCall& call, const float* q, int64_t count, const Head& head) {
        int64_t wide = key_panels(call) * P::kColumns, stride = W::stride(call.width);
        auto* words = scratch<int16_t, 0>(count * stride);
        auto *scales = scratch<float, 1>(count), *scores = scratch<float, 2>(count * wide), *factors = scratch<float, 3>(count);
        for (int64_t i = 0; i < count; ++i) scales[i] = W::row(q + i * call.q.row, call.width, words + i * stride);
        auto scale = V::set(call.scale * 1.44269504f);  // so that powers of two are taken
        for (int64_t panel = 0; panel < key_panels(call); ++panel) {
            const float* key_scales = head.scales + panel * P::kColumns;
            auto s_low = V::mul(V::load(key_scales), scale), s_high = V::mul(V::load(key_scales + V::width), scale);
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                Float low[R.value], high[R.value];
                W::template multiply<R.value>(words + row * stride, stride, head.keys + panel * panel_words(call), call.width, low,
                                              high);
                unroll<R.value>([&](auto r) {
                    auto own = V::set(scales[row + r]);
                    float* to = scores + (row + r) * wide + panel * P::kColumns;
                    V::store(to, V::mul(V::mul(low[r], own), s_low));
                    V::store(to + V::width, V::mul(V::mul(high[r], own), s_high));
                });
            });
        }
        for (int64_t i = 0; i < count; ++i) factors[i] = 1.0f / softmax(scores + i * wide, call.keys, wide);
        return {scores, factors};
    }

    // In place; returns the sum.
    static float softmax(float* scores, int64_t count, int64_t wide) {
        std::fill(scores + count, scores + wide, -3e38f);
        auto largest = V::set(-3e38f);
        for (int64_t i = 0; i < wide; i += V::width) largest = V::max(largest, V::load(scores + i));
        float lanes[V::width], most = -3e38f;
        V::store(lanes, largest);
        for (float lane : lanes) most = std::max(most, lane);
        auto centre = V::set(-most), sum = V::zero();
        for (int64_t i = 0; i < wide; i += V::width) {
            auto value = Activations<V>::exp2(V::add(V::load(scores + i), centre));
            V::store(scores + i, value);
            sum = V::add(sum, value);
        }
        return sum_of<V>(sum);
    }

    // R rows of y, C registers wide: values added up by their shares.
    template <int R, int C>
    static void weigh(const AttentionCall& call, const Shares& shares, int64_t row, const float* values, int64_t column, float* y) {
        int64_t wide = key_panels(call) * P::kColumns, left = call.width - column;
        Float sums[R * C];
        multiply<V, R, C>(shares.rows + row * wide, wide, values + column * call.keys, call.keys, sums);
        unroll<R>([&](auto r) {
            auto factor = V::set(shares.factors[row + r]);
            store_some<V>(y + (row + r) * call.heads * call.width + column, V::mul(sums[r * C], factor),
                          V::mul(sums[r * C + C - 1], factor), left);
        });
    }

    static int64_t panel_words(const AttentionCall& call) { return (call.width + 1) / 2 * 2 * P::kColumns; }

    static Head lay_out(const AttentionCall& call, const float* k, const float* v) {
        int64_t filled = key_panels(call) * P::kColumns, pairs = (call.width + 1) / 2;
        auto* panels = scratch<int16_t, 4>(key_panels(call) * panel_words(call));
        auto* scales = scratch<float, 5>(filled);
        auto* line = scratch<int16_t, 6>(W::stride(call.width) + 2);
        std::fill(scales, scales + filled, 0.0f);
        std::memset(panels, 0, size_t(key_panels(call) * panel_words(call)) * sizeof *panels);
        for (int64_t i = 0; i < call.keys; ++i) {
            scales[i] = W::row(k + i * call.k.row, call.width, line);
            int16_t* to = panels + i / P::kColumns * panel_words(call) + i % P::kColumns * 2;
            for (int64_t j = 0; j < pairs; ++j) std::memcpy(to + j * 2 * P::kColumns, line + 2 * j, 2 * sizeof *line);
        }
        return {panels, scales, in_panels(call, v)};
    }

    static const float* in_panels(const AttentionCall& call, const float* v) {
        float* panels = scratch<float, 7>(P::count(call.width) * P::kColumns * call.keys);
        for (int64_t column = 0; column < call.width; column += P::kColumns) {
            int64_t left = call.width - column, wide = left > V::width ? P::kColumns : V::width;
            for (int64_t i = 0; i < call.keys; ++i) {
                Float low, high;
                load_some<V>(v + i * call.v.row + column, left, low, high);
                float* to = panels + column * call.keys + i * wide;
                V::store(to, low);
                if (wide > V::width) V::store(to + V::width, high);
            }
        }
        return panels;
    }
};

}  // namespace aquatint
