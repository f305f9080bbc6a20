// csrc/cuda/blackwell.h in plain C++.
#pragma once

#include "cuda/ampere.h"

namespace aquatint {

constexpr float kE2M1[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

inline float float_of_e2m1(uint32_t code) { return code & 8 ? -kE2M1[code & 7] : kE2M1[code & 7]; }

inline float float_of_e4m3(uint8_t code) {
    int exponent = code >> 3 & 15, fraction = code & 7;
    return exponent ? std::ldexp(8.0f + fraction, exponent - 10) : std::ldexp(float(fraction), -9);
}

// Of codes in the order of their values the nearest, the even one of two.
template <class Value>
uint32_t nearest_code(float value, uint32_t largest, Value of) {
    uint32_t best = 0;
    for (uint32_t code = 1; code <= largest; ++code) {
        float apart = std::fabs(of(code) - value), least = std::fabs(of(best) - value);
        if (apart < least || (apart == least && code % 2 == 0)) best = code;
    }
    return best;
}

inline uint8_t e4m3(float value) { return nearest_code(value, 126, [](uint32_t code) { return float_of_e4m3(code); }); }

inline uint32_t two_e2m1(float low, float high) {
    auto one = [](float value) {
        return nearest_code(std::fabs(value), 7, float_of_e2m1) | (std::signbit(value) ? 8u : 0u);
    };
    return one(low) | one(high) << 4;
}

inline void product_of_scaled(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high, uint32_t a_scales,
                              uint32_t b_scales) {
    struct Own {
        uint32_t a[4], b[2], a_scales, b_scales;
    };
    const Own* lanes = emulator::all_lanes(Own{{a.x, a.y, a.z, a.w}, {b_low, b_high}, a_scales, b_scales});
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 64; ++k) {
            int far = k / 32, quad = k / 8 % 4, shift = k % 8 * 4;
            float scale = float_of_e4m3(lanes[row % 8 * 4 + row / 8].a_scales >> (k / 16 * 8) & 255) *
                          float_of_e4m3(lanes[column * 4].b_scales >> (k / 16 * 8) & 255);
            d[i] += float_of_e2m1(lanes[row % 8 * 4 + quad].a[far * 2 + row / 8] >> shift & 15) *
                    float_of_e2m1(lanes[column * 4 + quad].b[far] >> shift & 15) * scale;
        }
    }
}

}  // namespace aquatint
