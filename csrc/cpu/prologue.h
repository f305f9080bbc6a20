// What stands before a quantize, done to a row while it is read: layer norm, gain and offset, activation, smoothing.
#pragma once

#include <cmath>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/tiles.h"

namespace aquatint {

// One row of activation(norm(x) * gain + offset) * smooth.
template <class V>
struct Prologue {
    using Float = typename V::Float;
    const float *x, *gain, *offset, *smooth;
    Float centre = V::zero(), scale = V::set(1.0f);
    int32_t activation;
    bool empty;  // but for the smoothing

    Prologue(const QuantizeCall& call, int64_t row)
        : x(call.x + row * call.k),
          gain(call.gain.values ? call.gain.values + call.gain.place(row) : nullptr),
          offset(call.offset.values ? call.offset.values + call.offset.place(row) : nullptr),
          smooth(call.smooth),
          activation(call.activation),
          empty(call.eps < 0 && !gain && !offset && !activation) {
        if (call.eps < 0) return;
        float mean = sum(call.k, [&](int64_t i) { return V::load(x + i); }) / float(call.k);
        centre = V::set(-mean);
        float squares = sum(call.k, [&](int64_t i) {
            auto d = V::add(V::load(x + i), centre);
            return V::mul(d, d);
        });
        scale = V::set(1.0f / std::sqrt(squares / float(call.k) + call.eps));
    }

    // Numbers [begin, end) of the row; returns their largest magnitude, as bits: so a NaN is the largest.
    uint32_t read(int64_t begin, int64_t end, float* out) const {
        return empty ? each<true>(begin, end, out) : each<false>(begin, end, out);
    }

    template <bool Empty>
    uint32_t each(int64_t begin, int64_t end, float* out) const {
        auto largest = V::zero_int();
        for (int64_t i = begin; i < end; i += V::width) {
            auto value = V::load(x + i);
            if constexpr (!Empty) {
                value = V::mul(V::add(value, centre), scale);
                if (gain) value = V::mul(value, V::load(gain + i));
                if (offset) value = V::add(value, V::load(offset + i));
                value = Activations<V>::apply(activation, value);
            }
            if (smooth) value = V::mul(value, V::load(smooth + i));
            largest = V::larger_magnitude(largest, value);
            V::store(out + i, value);
        }
        return V::largest_lane(largest);
    }

    template <class F>
    static float sum(int64_t count, F&& part) {
        auto sums = V::zero();
        for (int64_t i = 0; i < count; i += V::width) sums = V::add(sums, part(i));
        return sum_of<V>(sums);
    }
};

}  // namespace aquatint
