// What group_affine without weights becomes when some rows of its value have changed; where none has, it stays as it was.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace aquatint {

template <class V>
struct MovedAffine {
    static constexpr int64_t kColumns = 2 * V::width;

    static int64_t tasks(const MovedAffineCall& call) { return call.images * call.groups; }

    static void run(const MovedAffineCall& call, int64_t task) {
        int64_t image = task / call.groups, width = call.channels / call.groups, first = task % call.groups * width;
        double sum = 0.0, squares = 0.0;
        for (int64_t i = 0; i < width; i += kColumns)
            channels(call, image, first + i, std::min(kColumns, width - i), sum, squares);
        write(call, image * call.channels + first, width, sum, squares);
    }

    // By how much the sums of numbers and squares have changed, over `count` neighbouring channels.
    static void channels(const MovedAffineCall& call, int64_t image, int64_t first, int64_t count, double& sum, double& squares) {
        double sums[kColumns] = {}, more[kColumns] = {};
        for (int64_t row = 0; row < call.rows; ++row) {
            int64_t place = (image * call.rows + row) * call.channels + first;
            const float *before = call.before + place, *now = call.now + place;
            for (int64_t i = 0; i < count; ++i) {
                double a = now[i], b = before[i];
                sums[i] += a - b;
                more[i] += (a - b) * (a + b);
            }
        }
        for (int64_t i = 0; i < count; ++i) sum += sums[i], squares += more[i];
    }

    static void write(const MovedAffineCall& call, int64_t first, int64_t width, double sum, double squares) {
        float gain = call.gain[first], offset = call.offset[first];
        if (sum != 0.0 || squares != 0.0) {
            double each = double(call.places) * double(width), mean = -double(offset) / gain;
            double square = 1.0 / (double(gain) * gain) - call.eps + mean * mean + squares / each;
            mean += sum / each;
            gain = float(1.0 / std::sqrt(std::max(square - mean * mean, 0.0) + call.eps));
            offset = float(-mean * gain);
        }
        std::fill_n(call.new_gain + first, width, gain);
        std::fill_n(call.new_offset + first, width, offset);
    }
};

}  // namespace aquatint
