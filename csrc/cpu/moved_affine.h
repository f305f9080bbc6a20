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

    static int64_t width(const MovedAffineCall& call) { return call.channels / call.groups; }

    // Narrow groups are taken together, so that a row is read in whole registers.
    static int64_t together(const MovedAffineCall& call) { return std::max<int64_t>(1, kColumns / width(call)); }

    static int64_t shares(const MovedAffineCall& call) { return (call.groups + together(call) - 1) / together(call); }

    static int64_t tasks(const MovedAffineCall& call) { return call.images * shares(call); }

    static void run(const MovedAffineCall& call, int64_t task) {
        int64_t image = task / shares(call), group = task % shares(call) * together(call), each = width(call);
        int64_t last = std::min(group + together(call), call.groups);
        if (each > kColumns) return wide(call, image, group * each);
        double sums[kColumns] = {}, squares[kColumns] = {};
        channels(call, image, group * each, (last - group) * each, sums, squares);
        for (int64_t i = 0; group < last; ++group, i += each) write(call, image, group * each, sums + i, squares + i, each);
    }

    // A group of more channels than are added up at once.
    static void wide(const MovedAffineCall& call, int64_t image, int64_t first) {
        double sum = 0.0, square = 0.0;
        for (int64_t i = 0; i < width(call); i += kColumns) {
            double sums[kColumns] = {}, squares[kColumns] = {};
            channels(call, image, first + i, std::min(kColumns, width(call) - i), sums, squares);
            for (int64_t j = 0; j < kColumns; ++j) sum += sums[j], square += squares[j];
        }
        write(call, image, first, &sum, &square, 1);
    }

    // By how much each of `count` neighbouring channels' sums of numbers and of squares have changed.
    static void channels(const MovedAffineCall& call, int64_t image, int64_t first, int64_t count, double* sums, double* squares) {
        for (int64_t row = 0; row < call.rows; ++row) {
            int64_t place = (image * call.rows + row) * call.channels + first;
            const float *before = call.before + place, *now = call.now + place;
            for (int64_t i = 0; i < count; ++i) {
                double a = now[i], b = before[i];
                sums[i] += a - b;
                squares[i] += (a - b) * (a + b);
            }
        }
    }

    // Gain and offset of the group that begins at channel `first`, from the changes in `count` parts.
    static void write(const MovedAffineCall& call, int64_t image, int64_t first, const double* sums, const double* more,
                      int64_t count) {
        double sum = 0.0, squares = 0.0, places = double(call.places) * double(width(call));
        for (int64_t i = 0; i < count; ++i) sum += sums[i], squares += more[i];
        first += image * call.channels;
        float gain = call.gain[first], offset = call.offset[first];
        if (sum != 0.0 || squares != 0.0) {
            double mean = -double(offset) / gain;
            double square = 1.0 / (double(gain) * gain) - call.eps + mean * mean + squares / places;
            mean += sum / places;
            gain = float(1.0 / std::sqrt(std::max(square - mean * mean, 0.0) + call.eps));
            offset = float(-mean * gain);
        }
        std::fill_n(call.new_gain + first, width(call), gain);
        std::fill_n(call.new_offset + first, width(call), offset);
    }
};

}  // namespace aquatint
