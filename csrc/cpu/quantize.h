// x (M, K) * smooth (K) -> codes, scales, and h (M, r) = (x * smooth) down^T, in one read of x; a norm, gain and offset, and
// activation that stand before it are done in the same read.
#pragma once

#include <algorithm>

#include "common/codec.h"
#include "cpu/bytes.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/prologue.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"
#include "cpu/ways.h"
#include "cpu/words.h"

namespace aquatint {

template <class V>
struct Quantize {
    using Branch = typename Ways<V>::Branch;
    using Number = typename Branch::Number;

    // Rows a task: what they become stays in the cache between their codes and their projection. With tiles that is the
    // second-level cache: they sleep when they are not used for half a microsecond, and each time it takes several to wake them.
    static int64_t block(const QuantizeCall& call) {
        bool by_tiles = V::has_tiles && call.h && call.branch_bits == 8;
        int64_t bytes = by_tiles ? 1 << 20 : 1 << 16, most = (by_tiles ? 1024 : 48) / V::many_rows;
        most = std::clamp<int64_t>(bytes / call.k / V::many_rows, 1, most) * V::many_rows;
        return even_block(call.m, most, call.threads, V::many_rows);
    }

    static int64_t tasks(const QuantizeCall& call) { return (call.m + block(call) - 1) / block(call); }

    static void run(const QuantizeCall& call, int64_t task) {
        int64_t first = task * block(call), count = std::min(call.m - first, block(call));
        if constexpr (V::wide_sums)
            if (call.h && call.branch_bits == 8) return with_bytes(call, first, count);
        Number* side = call.h ? scratch<Number, 8>(Branch::room(count, call.k)) : nullptr;
        auto* scales = scratch<float, 9>(count);
        float* x = scratch<float, 0>(call.k);
        for (int64_t row = 0; row < count; ++row) {
            float largest = call.bits == 8 ? by_row(call, first + row, x) : by_group(call, first + row, x);
            if (side) scales[row] = Branch::put_input(x, call.k, largest, row, side);
        }
        if (side) Branch::project(call, side, scales, first, count);
    }

    // What the branch reads are the codes; those of 4 bits have others beside them, with a scale for each row.
    static void with_bytes(const QuantizeCall& call, int64_t first, int64_t count) {
        int8_t* side = call.bits == 8 ? call.codes + first * call.k : scratch<int8_t, 8>(count * call.k);
        float* scales = call.bits == 8 ? call.scales + first : scratch<float, 9>(count);
        float* x = scratch<float, 0>(call.k);
        for (int64_t row = 0; row < count; ++row) {
            if (call.bits == 8)
                by_row(call, first + row, x);
            else
                scales[row] = in_bytes(call, first + row, by_group(call, first + row, x), x, side + row * call.k);
        }
        Ways<V>::Down::project(call, side, scales, first, count);
    }

    // A row with one scale, in 8 bits; what was encoded is left in x, and its largest magnitude returned.
    static float by_row(const QuantizeCall& call, int64_t row, float* x) {
        float largest = float_of(Prologue<V>(call, row).read(0, call.k, x));
        call.scales[row] = in_bytes(call, row, largest, x, call.codes + row * call.k);
        return largest;
    }

    // x, which was made of a row and has this largest magnitude, as codes of 8 bits; returns their scale.
    static float in_bytes(const QuantizeCall& call, int64_t row, float largest, const float* x, int8_t* codes) {
        float scale = group_scale(largest, 127.0f);
        auto inverse = V::set(1.0f / scale);
        const float* next = call.x + (row + 1) * call.k;  // fetched while this one needs no memory
        for (int64_t i = 0; i < call.k; i += V::width) {
            __builtin_prefetch(next + i);
            V::store_codes(codes + i, V::mul(V::load(x + i), inverse));
        }
        return scale;
    }

    // A row with a scale for each group, in 4 bits.
    static float by_group(const QuantizeCall& call, int64_t row, float* x) {
        Prologue<V> prologue(call, row);
        auto* codes = reinterpret_cast<uint8_t*>(call.codes) + row * call.k / 2;
        uint32_t largest = 0;
        for (int64_t i = 0; i < call.k; i += call.group) {
            uint32_t own = prologue.read(i, i + call.group, x);
            call.scales[(row * call.k + i) / call.group] = encode(x + i, call.group, float_of(own), codes + i / 2);
            largest = std::max(largest, own);
        }
        return float_of(largest);
    }

    static float encode(const float* x, int64_t count, float largest, uint8_t* codes) {
        constexpr float kMost = 7.0f;
        float scale = bfloat16_to_float(float_to_bfloat16(group_scale(largest, kMost)));
        auto inverse = V::set(1.0f / scale), top = V::set(kMost), bottom = V::set(-kMost);
        for (int64_t i = 0; i < count; i += V::width)
            V::store_pairs(codes + i / 2, V::max(bottom, V::min(top, V::mul(V::load(x + i), inverse))));
        return scale;
    }
};

}  // namespace aquatint
