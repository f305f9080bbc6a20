// What stands before a quantize, done to a row while it is read: layer norm, gain and offset, activation.
#pragma once

#include <cmath>

#include "cpu/activation.h"
#include "cpu/kernel_table.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Prologue {
    using Float = typename V::Float;

    static bool empty(const QuantizeCall& call) { return call.eps < 0 && !call.gain.values && !call.offset.values && !call.activation; }

    // One row of activation(norm(x) * gain + offset).
    static void run(const QuantizeCall& call, int64_t row, float* out) {
        const float* x = call.x + row * call.k;
        const float* gain = call.gain.values ? call.gain.values + call.gain.place(row) : nullptr;
        const float* offset = call.offset.values ? call.offset.values + call.offset.place(row) : nullptr;
        float mean = 0.0f, factor = 1.0f;
        if (call.eps >= 0) {
            mean = sum(call.k, [&](int64_t i) { return V::load(x + i); }) / float(call.k);
            auto centre = V::set(-mean);
            float squares = sum(call.k, [&](int64_t i) {
                auto d = V::add(V::load(x + i), centre);
                return V::mul(d, d);
            });
            factor = 1.0f / std::sqrt(squares / float(call.k) + call.eps);
        }
        auto centre = V::set(-mean), scale = V::set(factor);
        for (int64_t i = 0; i < call.k; i += V::width) {
            auto value = V::mul(V::add(V::load(x + i), centre), scale);
            if (gain) value = V::mul(value, V::load(gain + i));
            if (offset) value = V::add(value, V::load(offset + i));
            V::store(out + i, Activations<V>::apply(call.activation, value));
        }
    }

    template <class F>
    static float sum(int64_t count, F&& part) {
        auto sums = V::zero();
        for (int64_t i = 0; i < count; i += V::width) sums = V::add(sums, part(i));
        return sum_of<V>(sums);
    }
};

}  // namespace aquatint
