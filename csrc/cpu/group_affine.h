// Group norm as a gain and an offset for each channel of each image: norm(x) = x * gain + offset. x has its channels last.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/kernel_table.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct GroupAffine {
    static constexpr int64_t kColumns = 2 * V::width;
    static constexpr int64_t kPixels = 256;  // summed in float32 before they go to double

    // Of one channel over an image. Sums are taken around its first number, so that a large mean costs no digits.
    struct Moments {
        double mean, squares;  // squares of the distances from the mean
    };

    static int64_t group_width(const GroupAffineCall& call) { return call.channels / call.groups; }

    // Groups a task: whole columns of registers where that is possible.
    static int64_t share(const GroupAffineCall& call) {
        int64_t width = group_width(call);
        return std::min(call.groups, std::lcm(width, kColumns) / width);
    }

    static int64_t shares(const GroupAffineCall& call) { return (call.groups + share(call) - 1) / share(call); }

    static int64_t tasks(const GroupAffineCall& call) { return call.images * shares(call); }

    static void run(const GroupAffineCall& call, int64_t task) {
        int64_t image = task / shares(call), width = group_width(call);
        int64_t first = task % shares(call) * share(call), count = std::min(share(call), call.groups - first);
        const float* x = call.x + image * call.pixels * call.channels + first * width;
        auto* moments = scratch<Moments, 0>(count * width);
        for (int64_t i = 0; i < count * width; i += kColumns)
            channels(call, x + i, std::min(kColumns, count * width - i), moments + i);
        for (int64_t g = 0; g < count; ++g) write(call, image, (first + g) * width, moments + g * width);
    }

    // `count` neighbouring channels, up to kColumns.
    static void channels(const GroupAffineCall& call, const float* x, int64_t count, Moments* moments) {
        double sums[kColumns] = {}, squares[kColumns] = {};
        float centre[kColumns] = {}, line[kColumns] = {};
        std::copy(x, x + count, centre);
        auto minus = V::set(-1.0f), c_low = V::mul(V::load(centre), minus), c_high = V::mul(V::load(centre + V::width), minus);
        for (int64_t begin = 0; begin < call.pixels; begin += kPixels) {
            auto s_low = V::zero(), s_high = s_low, q_low = s_low, q_high = s_low;
            for (int64_t pixel = begin; pixel < std::min(call.pixels, begin + kPixels); ++pixel) {
                const float* p = x + pixel * call.channels;
                if (count < kColumns) {
                    std::copy(p, p + count, line);
                    p = line;
                }
                auto low = V::add(V::load(p), c_low), high = V::add(V::load(p + V::width), c_high);
                s_low = V::add(s_low, low);
                s_high = V::add(s_high, high);
                q_low = V::fma(low, low, q_low);
                q_high = V::fma(high, high, q_high);
            }
            add_to(sums, s_low, s_high);
            add_to(squares, q_low, q_high);
        }
        double pixels = double(call.pixels);
        for (int64_t i = 0; i < count; ++i)
            moments[i] = {centre[i] + sums[i] / pixels, std::max(squares[i] - sums[i] * sums[i] / pixels, 0.0)};
    }

    static void add_to(double* sums, typename V::Float low, typename V::Float high) {
        float line[kColumns];
        V::store(line, low);
        V::store(line + V::width, high);
        for (int64_t i = 0; i < kColumns; ++i) sums[i] += line[i];
    }

    // The channels of one group brought together (Chan et al. 1979, equation 2.1), and what they amount to.
    static void write(const GroupAffineCall& call, int64_t image, int64_t first, const Moments* moments) {
        int64_t width = group_width(call);
        double mean = 0.0, squares = 0.0;
        for (int64_t i = 0; i < width; ++i) mean += moments[i].mean / double(width);
        for (int64_t i = 0; i < width; ++i) {
            double distance = moments[i].mean - mean;
            squares += moments[i].squares + double(call.pixels) * distance * distance;
        }
        double variance = squares / (double(call.pixels) * double(width));
        float factor = float(1.0 / std::sqrt(variance + call.eps));
        for (int64_t i = first; i < first + width; ++i) {
            float gain = factor * (call.weight ? call.weight[i] : 1.0f);
            call.gain[image * call.channels + i] = gain;
            call.offset[image * call.channels + i] = (call.bias ? call.bias[i] : 0.0f) - float(mean) * gain;
        }
    }
};

}  // namespace aquatint
