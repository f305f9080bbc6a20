// GELU and SiLU on vectors. exp is 2^n times a polynomial (Cephes' coefficients, relative error 2e-7).
#pragma once

#include "cpu/kernel_table.h"

namespace aquatint {

template <class V>
struct Activations {
    using Float = typename V::Float;

    static Float exp(Float x) {
        x = V::max(V::set(-80.0f), V::min(V::set(80.0f), x));  // beyond, what is made of it would be denormal, and slow
        auto n = V::round(V::mul(x, V::set(1.44269504f)));
        x = V::fma(n, V::set(-0.693359375f), x);
        x = V::fma(n, V::set(2.12194440e-4f), x);
        auto y = V::set(1.9875691500e-4f);
        for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
            y = V::fma(y, x, V::set(c));
        y = V::fma(y, V::mul(x, x), V::add(x, V::set(1.0f)));
        return V::scale_by_power(y, n);
    }

    // 2^n times a polynomial in what is left of x (Cephes' coefficients, relative error 2e-7); below 2^-126 it is 2^-126.
    static Float exp2(Float x) {
        x = V::max(V::set(-126.0f), x);
        auto n = V::round(x);
        x = V::add(x, V::mul(n, V::set(-1.0f)));
        auto y = V::set(1.535336188e-4f);
        for (float c : {1.339887440e-3f, 9.618437357e-3f, 5.550332471e-2f, 2.402264791e-1f, 6.931472028e-1f, 1.0f})
            y = V::fma(y, x, V::set(c));
        return V::scale_by_power(y, n);
    }

    // The same to 8e-5, a fiftieth of what bfloat16 rounds away.
    static Float exp2_for_bfloat16(Float x) {
        x = V::max(V::set(-126.0f), x);
        auto part = V::fraction(x);
        auto y = V::fma(part, V::set(7.802451200e-02f), V::set(2.260671706e-01f));
        y = V::fma(y, part, V::set(6.958335353e-01f));
        return V::scale_by_power(V::fma(y, part, V::set(9.999252188e-01f)), x);
    }

    // x / (1 + exp(-a))
    static Float sigmoid_times(Float a, Float x) {
        return V::mul(x, V::reciprocal(V::add(V::set(1.0f), exp(V::mul(a, V::set(-1.0f))))));
    }

    // erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
    static Float gelu(Float x) {
        auto z = V::mul(V::magnitude(x), V::set(0.70710678f));
        auto t = V::reciprocal(V::fma(z, V::set(0.3275911f), V::set(1.0f)));
        auto p = V::set(1.061405429f);
        for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = V::fma(p, t, V::set(c));
        auto tail = V::mul(V::mul(V::set(0.5f), V::mul(p, t)), exp(V::mul(z, V::mul(z, V::set(-1.0f)))));
        // 1 - tail for x > 0, tail for x < 0: times x, both are max(x, 0) - |x| tail
        return V::fma(V::mul(V::magnitude(x), V::set(-1.0f)), tail, V::max(V::zero(), x));
    }

    static Float apply(int32_t activation, Float x) {
        if (activation == kGelu) return gelu(x);
        if (activation == kSilu) return sigmoid_times(x, x);
        if (activation == kGeluTanh) {  // 0.5 (1 + tanh u) = sigmoid(2 u)
            auto cubic = V::fma(V::mul(V::mul(x, x), x), V::set(0.044715f), x);
            return sigmoid_times(V::mul(cubic, V::set(1.59576912f)), x);
        }
        return x;
    }
};

}  // namespace aquatint
