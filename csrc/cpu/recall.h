// Rows of what was kept of a value, as floats: all of them, or those that an index names, behind rows that are given.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/codec.h"
#include "cpu/kernel_table.h"

namespace aquatint {

template <class V>
struct Recall {
    static constexpr int64_t kBlock = 1 << 15;  // numbers a task, about

    static int64_t block(const RecallCall& call) { return std::max<int64_t>(1, kBlock / call.width); }

    static int64_t each(const RecallCall& call) { return call.before_rows + call.rows; }

    static int64_t tasks(const RecallCall& call) { return (call.images * each(call) + block(call) - 1) / block(call); }

    static void run(const RecallCall& call, int64_t task) {
        int64_t first = task * block(call), last = std::min(first + block(call), call.images * each(call));
        for (int64_t row = first; row < last; ++row) {
            int64_t image = row / each(call), i = row % each(call) - call.before_rows;
            float* y = call.y + row * call.width;
            if (i < 0)
                std::copy_n(call.before + ((image + 1) * call.before_rows + i) * call.width, call.width, y);
            else
                decode(call, image * call.places + (call.index ? call.index[i] : i), y);
        }
    }

    static void decode(const RecallCall& call, int64_t row, float* y) {
        const auto* codes = static_cast<const uint8_t*>(call.codes) + row * call.width * call.bits / 8;
        if (call.bits == 32) {
            std::memcpy(y, codes, call.width * sizeof(float));
            return;
        }
        for (int64_t g = 0; g < call.width / call.group; ++g, y += call.group, codes += call.group * call.bits / 8) {
            float scale = scale_of(call, row * (call.width / call.group) + g);
            if (call.bits == 8)
                for (int64_t i = 0; i < call.group; ++i) y[i] = float(int8_t(codes[i])) * scale;
            else
                for (int64_t i = 0; i < call.group / 2; ++i) {
                    y[2 * i] = float(low_code(codes[i])) * scale;
                    y[2 * i + 1] = float(high_code(codes[i])) * scale;
                }
        }
    }

    // Scales of 4-bit codes are stored as bfloat16.
    static float scale_of(const RecallCall& call, int64_t place) {
        if (call.bits == 4) return bfloat16_to_float(static_cast<const uint16_t*>(call.scales)[place]);
        return static_cast<const float*>(call.scales)[place];
    }
};

}  // namespace aquatint
