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

namespace aquatint {

template <class V>
struct Quantize {
    using P = Panels<V>;
    using Pro = Prologue<V>;

    // Rows a task: what they become stays in the cache between their codes and their projection.
    static int64_t block(const QuantizeCall& call) {
        return std::clamp<int64_t>(65536 / call.k / V::rows * V::rows, V::rows, 48);
    }

    static int64_t tasks(const QuantizeCall& call, int) { return (call.m + block(call) - 1) / block(call); }

    static void run(const QuantizeCall& call, int64_t task, int64_t) {
        int64_t first = task * block(call), count = std::min(call.m - first, block(call));
        const float* x = call.x + first * call.k;
        if (!Pro::empty(call)) {
            float* rows = scratch<float, 8>(count * call.k);
            for (int64_t row = 0; row < count; ++row) Pro::run(call, first + row, rows + row * call.k);
            x = rows;
        }
        for (int64_t row = 0; row < count; ++row) encode_row(call, x + row * call.k, first + row);
        if (!call.h) return;
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel)
            tiles<V::rows>(count, [&](auto R, int64_t row) {
                project<R.value>(call, x + row * call.k, panel, first + row);
            });
    }

    static void encode_row(const QuantizeCall& call, const float* x, int64_t row) {
        if (call.smooth) {
            float* smoothed = scratch<float, 0>(call.k);
            for (int64_t i = 0; i < call.k; i += V::width)
                V::store(smoothed + i, V::mul(V::load(x + i), V::load(call.smooth + i)));
            x = smoothed;
        }
        auto* codes = call.bits == 8 ? call.codes + row * call.k : scratch<int8_t, 1>(call.k);
        int64_t groups = call.k / call.group;
        for (int64_t g = 0; g < groups; ++g)
            call.scales[row * groups + g] = encode(x + g * call.group, call, codes + g * call.group);
        if (call.bits == 8) return;
        auto* out = reinterpret_cast<uint8_t*>(call.codes) + row * call.k / 2;
        for (int64_t i = 0; i < call.k; i += 2) out[i / 2] = pack_codes(codes[i], codes[i + 1]);
    }

    static float encode(const float* x, const QuantizeCall& call, int8_t* codes) {
        auto largest = V::zero_int();  // magnitudes compared as bits: so a NaN is the largest and reaches the scale
        for (int64_t i = 0; i < call.group; i += V::width) largest = V::larger_magnitude(largest, V::load(x + i));
        float maximum = call.bits == 4 ? 7.0f : 127.0f;
        float scale = group_scale(float_of(V::largest_lane(largest)), maximum);
        if (call.bits == 4) scale = bfloat16_to_float(float_to_bfloat16(scale));
        auto inverse = V::set(1.0f / scale), top = V::set(maximum), bottom = V::set(-maximum);
        for (int64_t i = 0; i < call.group; i += V::width)
            V::store_codes(codes + i, V::max(bottom, V::min(top, V::mul(V::load(x + i), inverse))));
        return scale;
    }

    // R rows of h, one panel of ranks wide; the smoothing is in `down` already.
    template <int R>
    static void project(const QuantizeCall& call, const float* x, int64_t panel, int64_t row) {
        typename V::Float low[R], high[R];
        multiply<V, R>(x, call.k, call.down + panel * call.k * P::kColumns, call.k, low, high);
        int64_t first = panel * P::kColumns;
        unroll<R>([&](auto r) { store_some<V>(call.h + (row + r) * call.rank + first, low[r], high[r], call.rank - first); });
    }
};

}  // namespace aquatint
