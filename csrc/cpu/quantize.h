// x (M, K) * smooth (K) -> codes, scales, and h (M, r) = (x * smooth) down^T, in one read of x; a norm, gain and offset, and
// activation that stand before it are done in the same read.
#pragma once

#include <algorithm>

#include "common/codec.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/prologue.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"
#include "cpu/words.h"

namespace aquatint {

template <class V>
struct Quantize {
    using P = Panels<V>;

    // Rows a task: what they become stays in the cache between their codes and their projection.
    static int64_t block(const QuantizeCall& call) {
        return std::clamp<int64_t>(65536 / call.k / V::rows * V::rows, V::rows, 48);
    }

    static int64_t tasks(const QuantizeCall& call) { return (call.m + block(call) - 1) / block(call); }

    static void run(const QuantizeCall& call, int64_t task) {
        int64_t first = task * block(call), count = std::min(call.m - first, block(call));
        auto* words = call.h ? scratch<int16_t, 8>(count * call.k) : nullptr;
        auto* scales = scratch<float, 9>(count);
        for (int64_t row = 0; row < count; ++row) {
            int16_t* to = call.h ? words + row * call.k : nullptr;
            scales[row] = call.bits == 8 ? by_row(call, first + row, to) : by_group(call, first + row, to);
        }
        if (!call.h) return;
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                project<R.value>(call, words + row * call.k, scales + row, panel, first + row);
            });
    }

    // A row with one scale, in 8 bits; words too where they are wanted, whose scale is returned.
    static float by_row(const QuantizeCall& call, int64_t row, int16_t* words) {
        float* x = scratch<float, 0>(call.k);
        float largest = float_of(Prologue<V>(call, row).read(0, call.k, x));
        float scale = group_scale(largest, 127.0f), words_scale = group_scale(largest, Words<V>::kMost);
        auto inverse = V::set(1.0f / scale), words_inverse = V::set(1.0f / words_scale);
        int8_t* codes = call.codes + row * call.k;
        call.scales[row] = scale;
        for (int64_t i = 0; i < call.k; i += V::width) {
            auto value = V::load(x + i);
            V::store_codes(codes + i, V::mul(value, inverse));
            if (words) V::store_words(words + i, V::mul(value, words_inverse));
        }
        return words_scale;
    }

    // A row with a scale for each group, in 4 bits.
    static float by_group(const QuantizeCall& call, int64_t row, int16_t* words) {
        float* x = scratch<float, 0>(call.k);
        auto* codes = scratch<int8_t, 1>(call.k);
        Prologue<V> prologue(call, row);
        uint32_t largest = 0;
        for (int64_t i = 0; i < call.k; i += call.group) {
            uint32_t own = prologue.read(i, i + call.group, x);
            call.scales[(row * call.k + i) / call.group] = encode(x + i, call.group, float_of(own), codes + i);
            largest = std::max(largest, own);
        }
        auto* out = reinterpret_cast<uint8_t*>(call.codes) + row * call.k / 2;
        for (int64_t i = 0; i < call.k; i += 2) out[i / 2] = pack_codes(codes[i], codes[i + 1]);
        return words ? Words<V>::encode(x, call.k, float_of(largest), words) : 0.0f;
    }

    static float encode(const float* x, int64_t count, float largest, int8_t* codes) {
        constexpr float kMost = 7.0f;
        float scale = bfloat16_to_float(float_to_bfloat16(group_scale(largest, kMost)));
        auto inverse = V::set(1.0f / scale), top = V::set(kMost), bottom = V::set(-kMost);
        for (int64_t i = 0; i < count; i += V::width)
            V::store_codes(codes + i, V::max(bottom, V::min(top, V::mul(V::load(x + i), inverse))));
        return scale;
    }

    // R rows of h, one panel of ranks wide.
    template <int R>
    static void project(const QuantizeCall& call, const int16_t* words, const float* scales, int64_t panel, int64_t row) {
        typename V::Float low[R], high[R];
        Words<V>::template multiply<R>(words, call.k, call.down + panel * call.k * P::kColumns, call.k, low, high);
        int64_t first = panel * P::kColumns;
        auto s_low = V::load(call.down_scales + first), s_high = V::load(call.down_scales + first + V::width);
        unroll<R>([&](auto r) {
            auto scale = V::set(scales[r]);
            low[r] = V::mul(V::mul(low[r], scale), s_low);
            high[r] = V::mul(V::mul(high[r], scale), s_high);
            store_some<V>(call.h + (row + r) * call.rank + first, low[r], high[r], call.rank - first);
        });
    }
};

}  // namespace aquatint
