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
        Float sums[2 * R];
        multiply<R, 2>(words, call.k, static_cast<const Number*>(call.down) + panel * call.k * P::kColumns, call.k, sums);
        int64_t first = panel * P::kColumns;
        auto s_low = V::load(call.down_scales + first), s_high = V::load(call.down_scales + first + V::width);
        unroll<R>([&](auto r) {
            auto scale = V::set(scales[r]);
            auto low = V::mul(V::mul(sums[2 * r], scale), s_low), high = V::mul(V::mul(sums[2 * r + 1], scale), s_high);
            store_some<V>(call.h + (row + r) * call.rank + first, low, high, call.rank - first);
        });
    }

    // Of what lies between the two projections: row `row` of a block.
    static float put_between(const float* x, int64_t count, int64_t row, Number* block) {
        return Words::row(x, count, block + row * stride(count));
    }

    // Any `count` of numbers as a row of words, filled up with zeros; returns their scale.
    static float row(const float* x, int64_t count, Number* words) {
        int64_t whole = count / V::width * V::width;
        auto rest = whole < count ? V::load_first(x + whole, count - whole) : V::zero();
        auto largest = V::larger_magnitude(V::zero_int(), rest);
        for (int64_t i = 0; i < whole; i += V::width) largest = V::larger_magnitude(largest, V::load(x + i));
        float scale = encode(x, whole, float_of(V::largest_lane(largest)), words);
        if (whole < count) V::store_words(words + whole, V::mul(rest, V::set(1.0f / scale)));
        return scale;
    }

    // R rows of words, `a_row` apart, times a panel of words, C registers a row, without the scales.
    template <int R, int C>
    [[gnu::always_inline]] static void multiply(const Number* a, int64_t a_row, const Number* panel, int64_t depth,
                                                Float (&sums)[R * C]) {
        unroll<R * C>([&](auto i) { sums[i] = V::zero(); });
        for (int64_t from = 0; from < depth; from += kExact) {
            typename V::Int exact[R * C];
            unroll<R * C>([&](auto i) { exact[i] = V::zero_int(); });
            for (int64_t i = from; i < std::min(depth, from + kExact); i += 2, panel += C * 2 * V::width) {
                typename V::Words line[C];
                unroll<C>([&](auto c) { line[c] = V::load_words(panel + c * 2 * V::width); });
                unroll<R>([&](auto r) {
                    auto pair = V::set_pair(a + r * a_row + i);
                    unroll<C>([&](auto c) { exact[r * C + c] = V::dot_words(exact[r * C + c], line[c], pair); });
                });
            }
            unroll<R * C>([&](auto i) { sums[i] = V::add(sums[i], V::to_float(exact[i])); });
        }
    }
};

}  // namespace aquatint
