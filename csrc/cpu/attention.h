// y = softmax(scale q k^T) v for each head, without a mask. A task is a block of queries of one head, whose scores stay in the
// cache; keys and values are laid out in panels, once a head for each thread. q k^T is multiplied in words. Shares and values are
// too where the program lets them be rounded to bfloat16, which has 8 bits: shares of 14 bits against the largest of their row,
// values of 10 against the largest of their column, if no column has one that is much larger than its others; else in float.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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
    static constexpr float kShare = 16383.0f, kValue = 1023.0f;  // the largest words: W::kExact of their products fit 32 bits
    static constexpr float kLarge = 16.0f;  // times the root mean square of its column: then values of 10 bits are too coarse

    // What is added before a share is rounded, to each of 16 neighbours another part of a unit: so that of many that are smaller
    // than one some count. Twice, as the next 16 begin elsewhere.
    static constexpr int kSteps[16] = {-15, 1, -7, 9, -11, 5, -3, 13, -13, 3, -5, 11, -9, 7, -1, 15};
    static const float* uneven() {
        alignas(64) static const auto table = [] {
            std::array<float, 32> parts{};
            for (int i = 0; i < 32; ++i) parts[i] = kSteps[i % 16] / 32.0f;
            return parts;
        }();
        return table.data();
    }

    static int64_t key_panels(const AttentionCall& call) { return P::count(call.keys); }

    static int64_t block(const AttentionCall& call) {
        return even_block(call.queries, std::clamp<int64_t>(kScores / (key_panels(call) * P::kColumns), V::rows, kBlock));
    }

    static int64_t blocks(const AttentionCall& call) { return (call.queries + block(call) - 1) / block(call); }

    static int64_t tasks(const AttentionCall& call) { return call.batch * call.heads * blocks(call); }

    // A head's keys as words (keys / P, width / 2, P, 2) with a scale each; its values in panels (width / P, keys, P), of which the
    // last is half as wide where that is enough; or else as words (width / P, keys / 2, P, 2) with a scale for each column.
    struct Head {
        const int16_t* keys;
        const float* scales;
        const float* values;
        const int16_t* words;
        const float* columns;
    };

    // Exponentials of the distances from each query's largest score, a row each, in float or words; and one over each row's sum.
    struct Shares {
        const float* rows;
        const int16_t* words;
        const float* factors;
    };

    static void work(const AttentionCall& call, Tasks& tasks) {
        int64_t ready = -1;
        Head laid_out{};
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t index = task / blocks(call), first = task % blocks(call) * block(call);
            if (index != ready) laid_out = lay_out(call, index);
            ready = index;
            one_block(call, laid_out, index, first, std::min(block(call), call.queries - first));
        }
    }

    static void one_block(const AttentionCall& call, const Head& laid_out, int64_t index, int64_t first, int64_t count) {
        int64_t image = index / call.heads, head = index % call.heads;
        Shares shares = attend(call, call.q.at(image, head) + first * call.q.row, count, laid_out);
        float* y = call.y + ((image * call.queries + first) * call.heads + head) * call.width;
        for (int64_t column = 0; column < call.width; column += P::kColumns)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                auto* part = call.width - column > V::width ? &weigh<R.value, 2> : &weigh<R.value, 1>;
                part(call, shares, row, laid_out, column, y);
            });
    }

    static Shares attend(const AttentionCall& call, const float* q, int64_t count, const Head& head) {
        int64_t stride = W::stride(call.width);
        auto* words = scratch<int16_t, 0>(count * stride);
        auto *scales = scratch<float, 1>(count), *scores = scratch<float, 2>(count * apart(call)), *factors = scratch<float, 3>(count);
        for (int64_t i = 0; i < count; ++i) scales[i] = W::row(q + i * call.q.row, call.width, words + i * stride);
        for (int64_t panel = 0; panel < key_panels(call); ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                score<R.value>(call, words + row * stride, scales + row, head, panel, scores + row * apart(call));
            });
        auto* take = head.words ? &softmax<true> : &softmax<false>;
        int64_t wide = key_panels(call) * P::kColumns;
        for (int64_t i = 0; i < count; ++i) factors[i] = 1.0f / take(scores + i * apart(call), call.keys, wide);
        return {scores, reinterpret_cast<const int16_t*>(scores), factors};
    }

    // Scores between two rows: not a power of two, by which they would all share a few lines of the first-level cache.
    static int64_t apart(const AttentionCall& call) { return key_panels(call) * P::kColumns + V::width; }

    // R rows of scores, a panel of keys wide. A function of its own, so that its sums have all registers.
    template <int R>
    [[gnu::noinline]] static void score(const AttentionCall& call, const int16_t* words, const float* scales, const Head& head,
                                        int64_t panel, float* scores) {
        Float sums[2 * R];
        W::template multiply<R, 2>(words, W::stride(call.width), head.keys + panel * panel_words(call), call.width, sums);
        auto scale = V::set(call.scale * 1.44269504f);  // so that powers of two are taken
        const float* key_scales = head.scales + panel * P::kColumns;
        auto s_low = V::mul(V::load(key_scales), scale), s_high = V::mul(V::load(key_scales + V::width), scale);
        unroll<R>([&](auto r) {
            auto own = V::set(scales[r]);
            float* to = scores + r * apart(call) + panel * P::kColumns;
            V::store(to, V::mul(V::mul(sums[2 * r], own), s_low));
            V::store(to + V::width, V::mul(V::mul(sums[2 * r + 1], own), s_high));
        });
    }

    // In place, as floats or as words in the first half of the row; returns the sum.
    template <bool InWords>
    static float softmax(float* scores, int64_t count, int64_t wide) {
        std::fill(scores + count, scores + wide, -3e38f);
        auto largest = V::set(-3e38f);
        for (int64_t i = 0; i < wide; i += V::width) largest = V::max(largest, V::load(scores + i));
        float lanes[V::width], most = -3e38f;
        V::store(lanes, largest);
        for (float lane : lanes) most = std::max(most, lane);
        auto centre = V::set(-most), sum = V::zero();
        const float* parts = uneven();
        for (int64_t i = 0; i < wide; i += V::width) {
            auto value = Activations<V>::exp2(V::add(V::load(scores + i), centre));
            if constexpr (InWords)
                V::store_words(reinterpret_cast<int16_t*>(scores) + i,
                               V::fma(value, V::set(kShare), V::load(parts + i / 16 * 5 % 16 + i % 16)));
            else
                V::store(scores + i, value);
            sum = V::add(sum, value);
        }
        return sum_of<V>(sum);
    }

    // R rows of y, C registers wide: values added up by their shares.
    template <int R, int C>
    [[gnu::noinline]] static void weigh(const AttentionCall& call, const Shares& shares, int64_t row, const Head& head,
                                        int64_t column, float* y) {
        int64_t left = call.width - column;
        Float sums[R * C];
        if (head.words) {
            const int16_t* values = head.words + column * even(call.keys);
            W::template multiply<R, C>(shares.words + 2 * row * apart(call), 2 * apart(call), values, call.keys, sums);
            unroll<R * C>([&](auto i) { sums[i] = V::mul(sums[i], V::load(head.columns + column + i % C * V::width)); });
        } else {
            multiply<V, R, C>(shares.rows + row * apart(call), apart(call), head.values + column * call.keys, call.keys, sums);
        }
        unroll<R>([&](auto r) {
            auto factor = V::set(shares.factors[row + r]);
            store_some<V>(y + (row + r) * call.heads * call.width + column, V::mul(sums[r * C], factor),
                          V::mul(sums[r * C + C - 1], factor), left);
        });
    }

    static int64_t even(int64_t count) { return (count + 1) / 2 * 2; }

    static int64_t panel_words(const AttentionCall& call) { return (call.width + 1) / 2 * 2 * P::kColumns; }

    static Head lay_out(const AttentionCall& call, int64_t index) {
        const float* k = call.k.at(index / call.heads, index % call.heads);
        const float* v = call.v.at(index / call.heads, index % call.heads);
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
        Head head{panels, scales, nullptr, nullptr, nullptr};
        if (!call.bfloat16 || !as_words(call, v, head)) head.values = in_panels(call, v);
        return head;
    }

    // Values as words, two keys beside each other; false where a column has one that is not finite, or much larger than its others.
    static bool as_words(const AttentionCall& call, const float* v, Head& head) {
        auto* words = scratch<int16_t, 7>(P::count(call.width) * P::kColumns * even(call.keys));
        auto* scales = scratch<float, 8>(P::count(call.width) * P::kColumns);
        for (int64_t column = 0; column < call.width; column += V::width) {
            int64_t left = std::min<int64_t>(call.width - column, V::width);
            auto line = [&](int64_t key) {
                if (key == call.keys) return V::zero();
                const float* from = v + key * call.v.row + column;
                return left == V::width ? V::load(from) : V::load_first(from, left);
            };
            auto largest = V::set(1e-30f), squares = V::zero();
            for (int64_t i = 0; i < call.keys; ++i) {
                auto value = line(i);
                largest = V::max(largest, V::magnitude(value));
                squares = V::fma(value, value, squares);
            }
            float most[V::width], total[V::width];
            V::store(most, largest);
            V::store(total, squares);
            for (int i = 0; i < V::width; ++i)
                if (!std::isfinite(total[i]) || most[i] * most[i] * float(call.keys) > kLarge * kLarge * total[i]) return false;
            auto inverse = V::mul(V::reciprocal(largest), V::set(kValue));
            V::store(scales + column, V::mul(largest, V::set(1.0f / (kValue * kShare))));
            bool second = column % P::kColumns != 0, alone = !second && call.width - column <= V::width;
            int16_t* to = words + column / P::kColumns * P::kColumns * even(call.keys) + (second ? 2 * V::width : 0);
            for (int64_t i = 0; i < call.keys; i += 2, to += (alone ? 1 : 2) * 2 * V::width)
                V::store_word_pairs(to, V::mul(line(i), inverse), V::mul(line(i + 1), inverse));
        }
        head.words = words, head.columns = scales;
        return true;
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
