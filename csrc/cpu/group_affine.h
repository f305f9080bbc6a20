// Group norm as a gain and an offset for each channel of each image: norm(x) = x * gain + offset. x has its channels last.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace aquatint {

template <class V>
struct GroupAffine {
    static int64_t tasks(const GroupAffineCall& call, int) { return call.images * call.groups; }

    // One group of one image. Its sums are taken around its first number, so that a large mean costs no digits.
    static void run(const GroupAffineCall& call, int64_t task, int64_t) {
        int64_t image = task / call.groups, width = call.channels / call.groups, first = task % call.groups * width;
        const float* x = call.x + image * call.pixels * call.channels + first;
        double total = 0.0, squares = 0.0;
        float centre = x[0];
        for (int64_t pixel = 0; pixel < call.pixels; ++pixel, x += call.channels) {
            float part = 0.0f, square = 0.0f;
            for (int64_t i = 0; i < width; ++i) {
                float d = x[i] - centre;
                part += d;
                square += d * d;
            }
            total += part;
            squares += square;
        }
        double count = double(call.pixels) * double(width), shift = total / count;
        double variance = std::max(squares / count - shift * shift, 0.0), mean = centre + shift;
        float factor = float(1.0 / std::sqrt(variance + call.eps));
        for (int64_t i = first; i < first + width; ++i) {
            float gain = factor * (call.weight ? call.weight[i] : 1.0f);
            call.gain[image * call.channels + i] = gain;
            call.offset[image * call.channels + i] = (call.bias ? call.bias[i] : 0.0f) - float(mean) * gain;
        }
    }
};

}  // namespace aquatint
