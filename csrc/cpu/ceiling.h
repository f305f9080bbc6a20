// The machine's ceiling at this moment: multiply-adds on registers alone, as the product's inner loop does them.
#pragma once

#include <cstdint>

#include "cpu/panels.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Ceiling {
    // Multiply-adds done in `rounds` rounds of integer (kind 0) or float (kind 1) instructions (kind 2: tile_product.h); the sum is used, so it stays.
    static double run(int kind, int64_t rounds) { return kind == 0 ? integers(rounds) : floats(rounds); }

    static constexpr int kSums = V::rows * 2;

    static double integers(int64_t rounds) {
        alignas(64) uint8_t ones[4 * V::width];
        for (auto& one : ones) one = 1;
        int8_t four[4] = {1, 2, 3, 4};
        typename V::Sum sums[kSums];
        unroll<kSums>([&](auto s) { sums[s] = V::start_sum(0); });
        auto w = V::load_bytes(ones);
        auto x = V::set_four(four);
        for (int64_t i = 0; i < rounds; ++i)
            unroll<kSums>([&](auto s) { sums[s] = V::dot(sums[s], w, x); });
        unroll<kSums>([&](auto s) {
            auto sum = sums[s];
            V::keep(sum);
        });
        return double(rounds) * kSums * 4 * V::width;
    }

    static double floats(int64_t rounds) {
        typename V::Float sums[kSums];
        unroll<kSums>([&](auto s) { sums[s] = V::zero(); });
        auto x = V::set(1.0f), w = V::set(0.5f);
        for (int64_t i = 0; i < rounds; ++i)
            unroll<kSums>([&](auto s) { sums[s] = V::fma(x, w, sums[s]); });
        unroll<kSums>([&](auto s) {
            auto sum = sums[s];
            V::keep(sum);
        });
        return double(rounds) * kSums * V::width;
    }
};

}  // namespace aquatint
