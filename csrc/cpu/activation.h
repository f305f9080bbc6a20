// GELU and SiLU on vectors, by powers of two. `Narrow`: as exact as what is kept in bfloat16 can tell.
#pragma once

#include "cpu/kernel_table.h"

namespace aquatint {

template <class V, bool Narrow = false>
struct Activations {
    using Float = typename V::Float;
    static constexpr float kPowers = 1.44269504f;  // exp(x) = 2^(kPowers x)

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

    // 2^x, up to where what is made of it would be denormal, and slow.
    static Float power(Float x) {
        x = V::max(V::set(-115.0f), V::min(V::set(115.0f), x));
        if constexpr (Narrow)
            return exp2_for_bfloat16(x);
        else
            return exp2(x);
    }

    static Float inverse(Float x) {
        if constexpr (Narrow)
            return V::near_reciprocal(x);
        else
            return V::reciprocal(x);
    }

    // x / (1 + 2^a)
    static Float sigmoid_times(Float a, Float x) { return V::mul(x, inverse(V::add(V::set(1.0f), power(a)))); }

    // erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
    static Float gelu(Float x) {
        auto t = inverse(V::fma(V::magnitude(x), V::set(0.3275911f * 0.70710678f), V::set(1.0f)));
        auto p = V::set(1.061405429f);
        for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = V::fma(p, t, V::set(c));
        auto bell = power(V::mul(V::mul(x, x), V::set(-0.5f * kPowers)));
        auto tail = V::mul(V::mul(V::set(0.5f), V::mul(p, t)), bell);
        // 1 - tail for x > 0, tail for x < 0: times x, both are max(x, 0) - |x| tail
        return V::fma(V::mul(V::magnitude(x), V::set(-1.0f)), tail, V::max(V::zero(), x));
    }

    static Float apply(int32_t activation, Float x) {
        if (activation == kGelu) return gelu(x);
        if (activation == kSilu) return sigmoid_times(V::mul(x, V::set(-kPowers)), x);
        if (activation == kGeluTanh) {  // 0.5 (1 + tanh u) = sigmoid(2 u) = 1 / (1 + exp(-2 u)), u = x (a + b x^2)
            constexpr float a = -2.0f * kPowers * 0.79788456f, b = a * 0.044715f;
            return sigmoid_times(V::mul(x, V::fma(V::mul(x, x), V::set(b), V::set(a))), x);
        }
        return x;
    }
};

}  // namespace aquatint
