// Rows of numbers as integers of 13 bits with one scale: what the low-rank branch is multiplied in, at twice the rate of floats.
// Against a row's largest number a word is off by at most 1.2e-4, less than the digits of the 16-bit floats that a branch is
// stored in.
#pragma once

#include <algorithm>

#include "common/codec.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Words {
    using P = Panels<V>;
    using Float = typename V::Float;
    using Number = int16_t;
    static constexpr float kMost = 4095.0f;
    static constexpr int64_t kExact = 128;  // products that one 32-bit sum holds: 128 * 4095^2 < 2^31

    // Numbers a row takes in memory: whole registers.
    static int64_t stride(int64_t count) { return (count + V::width - 1) / V::width * V::width; }

    // `count` numbers, whole registers of them, whose largest magnitude is `largest`; returns their scale.
    static float encode(const float* x, int64_t count, float largest, Number* words) {
        float scale = group_scale(largest, kMost);
        auto inverse = V::set(1.0f / scale);
        for (int64_t i = 0; i < count; i += V::width) V::store_words(words + i, V::mul(V::load(x + i), inverse));
        return scale;
    }

    // Room for `rows` rows of `count` numbers.
    static int64_t room(int64_t rows, int64_t count) { return rows * stride(count); }

    // Of what is projected down: row `row` of a block, `count` numbers whose largest magnitude is `largest`; returns their scale.
    static float put_input(const float* x, int64_t count, float largest, int64_t row, Number* block) {
        return encode(x, count, largest, block + row * stride(count));
    }

    // h of the `count` rows in a block, from row `first` on.
    static void project(const QuantizeCall& call, const Number* block, const float* scales, int64_t first, int64_t count) {
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                project<R.value>(call, block + row * call.k, scales + row, panel, first + row);
            });
    }

    // R rows of h, one panel of ranks wide.
    template <int R>
    static void project(const QuantizeCall& call, const Number* words, const float* scales, int64_t panel, int64_t row) {
        Float low[R], high[R];
        multiply<R>(words, call.k, call.down + panel * call.k * P::kColumns, call.k, low, high);
        int64_t first = panel * P::kColumns;
        auto s_low = V::load(call.down_scales + first), s_high = V::load(call.down_scales + first + V::width);
        unroll<R>([&](auto r) {
            auto scale = V::set(scales[r]);
            low[r] = V::mul(V::mul(low[r], scale), s_low);
            high[r] = V::mul(V::mul(high[r], scale), s_high);
            store_some<V>(call.h + (row + r) * call.rank + first, low[r], high[r], call.rank - first);
        });
    }

    // Of what lies between the two projections: row `row` of a block.
    static float put_between(const float* x, int64_t count, int64_t row, Number* block) {
        return Words::row(x, count, block + row * stride(count));
    }

    // Any `count` of numbers as a row of words, filled up with zeros; returns their scale.
    static float row(const float* x, int64_t count, Number* words) {
        if (count % V::width) {
            float* line = scratch<float, 20>(stride(count));
            std::fill(std::copy(x, x + count, line), line + stride(count), 0.0f);
            x = line, count = stride(count);
        }
        auto largest = V::zero_int();
        for (int64_t i = 0; i < count; i += V::width) largest = V::larger_magnitude(largest, V::load(x + i));
        return encode(x, count, float_of(V::largest_lane(largest)), words);
    }

    // R rows of words, `a_row` apart, times a panel of words, without the scales.
    template <int R>
    [[gnu::always_inline]] static void multiply(const Number* a, int64_t a_row, const Number* panel, int64_t depth,
                                                Float (&low)[R], Float (&high)[R]) {
        unroll<R>([&](auto r) { low[r] = high[r] = V::zero(); });
        for (int64_t from = 0; from < depth; from += kExact) {
            typename V::Int s_low[R], s_high[R];
            unroll<R>([&](auto r) { s_low[r] = s_high[r] = V::zero_int(); });
            for (int64_t i = from; i < std::min(depth, from + kExact); i += 2, panel += 2 * P::kColumns) {
                auto p_low = V::load_words(panel), p_high = V::load_words(panel + P::kColumns);
                unroll<R>([&](auto r) {
                    auto pair = V::set_pair(a + r * a_row + i);
                    s_low[r] = V::dot_words(s_low[r], p_low, pair);
                    s_high[r] = V::dot_words(s_high[r], p_high, pair);
                });
            }
            unroll<R>([&](auto r) {
                low[r] = V::add(low[r], V::to_float(s_low[r]));
                high[r] = V::add(high[r], V::to_float(s_high[r]));
            });
        }
    }
};

}  // namespace aquatint
