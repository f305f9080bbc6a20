// Every machine: the kernels in ordinary C++.
#include <cmath>
#include <cstring>

#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Plain {
    static constexpr int width = 8, rows = 4;
    static constexpr bool many_registers = false, has_tiles = false;
    static constexpr int64_t many_rows = rows;
    static constexpr bool wide_sums = true;
    static constexpr int whole_rows = 2 * rows;
    struct Float {
        float v[width];
    };
    struct Sum {
        int32_t v[width];
    };
    using Int = Sum;
    struct Bytes {
        uint8_t v[4 * width];
    };
    struct Pairs {
        int16_t v[2 * width];
    };
    using Words = Pairs;
    struct Pair {
        int16_t v[2];
    };
    struct Four {
        int8_t v[4];
    };

    template <class T, class F>
    static T each(F f) {
        T out;
        for (int i = 0; i < width; ++i) out.v[i] = f(i);
        return out;
    }

    static Float zero() { return set(0.0f); }
    static Float set(float x) { return each<Float>([=](int) { return x; }); }
    static Float load(const float* p) { return each<Float>([=](int i) { return p[i]; }); }
    static void store(float* p, Float a) { std::copy(a.v, a.v + width, p); }
    static Float load_first(const float* p, int64_t count) { return load_one_by_one<Plain>(p, count); }
    static void store_first(float* p, Float a, int64_t count) { store_one_by_one<Plain>(p, a, count); }
    static void stream(float* p, Float a) { store(p, a); }
    static void fence() {}
    static Float add(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] + b.v[i]; }); }
    static Float mul(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] * b.v[i]; }); }
    static Float reciprocal(Float a) { return each<Float>([&](int i) { return 1.0f / a.v[i]; }); }
    static Float fma(Float a, Float b, Float c) { return each<Float>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
    // The second operand where the first is NaN or they are equal, as the vector instructions do.
    static Float max(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
    static Float min(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
    static Float round(Float a) { return each<Float>([&](int i) { return std::nearbyint(a.v[i]); }); }
    static Float magnitude(Float a) { return each<Float>([&](int i) { return std::fabs(a.v[i]); }); }
    static Float scale_by_power(Float a, Float n) {
        return each<Float>([&](int i) { return n.v[i] == n.v[i] ? std::ldexp(a.v[i], int(n.v[i])) : n.v[i]; });
    }

    static Int zero_int() { return start_sum(0); }
    static Int larger_magnitude(Int largest, Float x) {
        return each<Int>([&](int i) { return std::max(largest.v[i], int32_t(bits_of(x.v[i]) & 0x7fffffff)); });
    }
    static uint32_t largest_lane(Int a) { return uint32_t(*std::max_element(a.v, a.v + width)); }
    static void store_codes(int8_t* p, Float a) {
        for (int i = 0; i < width; ++i) p[i] = a.v[i] == a.v[i] ? int8_t(std::nearbyint(a.v[i])) : int8_t(0);
    }
    // Codes of 4 bits, two a byte.
    static void store_pairs(uint8_t* p, Float a) {
        int8_t codes[width];
        store_codes(codes, a);
        for (int i = 0; i < width / 2; ++i) p[i] = pack_codes(codes[2 * i], codes[2 * i + 1]);
    }

    static Float load_codes(const int8_t* p) { return each<Float>([=](int i) { return float(p[i]); }); }
    static Float to_float(Int a) { return each<Float>([&](int i) { return float(a.v[i]); }); }
    static void store_words(int16_t* p, Float a) {
        for (int i = 0; i < width; ++i) p[i] = a.v[i] == a.v[i] ? int16_t(std::nearbyint(a.v[i])) : int16_t(0);
    }
    static void store_word_pairs(int16_t* p, Float a, Float b) {
        for (int i = 0; i < width; ++i) {
            p[2 * i] = a.v[i] == a.v[i] ? int16_t(std::nearbyint(a.v[i])) : int16_t(0);
            p[2 * i + 1] = b.v[i] == b.v[i] ? int16_t(std::nearbyint(b.v[i])) : int16_t(0);
        }
    }
    static Pairs load_words(const int16_t* p) {
        Pairs out;
        std::copy(p, p + 2 * width, out.v);
        return out;
    }
    static Pair set_pair(const int16_t* p) { return {{p[0], p[1]}}; }
    static Int dot_words(Int sum, const Pairs& a, Pair b) {
        return each<Int>([&](int i) { return sum.v[i] + a.v[2 * i] * b.v[0] + a.v[2 * i + 1] * b.v[1]; });
    }

    static void unpack(const uint8_t* packed, uint8_t* bytes) {
        for (int i = 0; i < 4 * width; ++i) {
            bytes[i] = packed[i] & 15;
            bytes[4 * width + i] = packed[i] >> 4;
        }
    }
    template <int Middle>
    static void unpack_times(const uint8_t* packed, uint8_t* bytes, const int32_t* wholes) {
        for (int line = 0; line < kGroup / 4; ++line, packed += 4 * width, bytes += 8 * width)
            for (int i = 0; i < 4 * width; ++i) {
                bytes[i] = uint8_t(((packed[i] & 15) - 8) * (wholes[i / 4] & 255) + Middle);
                bytes[4 * width + i] = uint8_t(((packed[i] >> 4) - 8) * (wholes[width + i / 4] & 255) + Middle);
            }
    }
    static Float nibble(const Bytes& a, int shift) {
        return each<Float>([&](int i) { return float(((a.v[4 * i + shift / 8] >> (shift % 8)) & 15) - 8); });
    }
    static Bytes load_bytes(const uint8_t* p) {
        Bytes out;
        std::memcpy(out.v, p, sizeof out.v);
        return out;
    }
    static Four set_four(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }

    static int32_t start(const int8_t* codes) {
        int32_t sum = 0;
        for (int i = 0; i < kGroup; ++i) sum += codes[i];
        return -8 * sum;
    }
    static Sum start_sum(int32_t x) { return each<Sum>([=](int) { return x; }); }
    static Sum dot(Sum sum, const Bytes& w, Four x) {
        return each<Sum>([&](int i) {
            int32_t total = sum.v[i];
            for (int j = 0; j < 4; ++j) total += int32_t(w.v[4 * i + j]) * x.v[j];
            return total;
        });
    }
    static Sum times_128(Sum sum) { return each<Sum>([&](int i) { return sum.v[i] * 128; }); }
    static Float total(Sum sum) { return each<Float>([&](int i) { return float(sum.v[i]); }); }
    template <class T>
    static void keep(T& value) {
        asm volatile("" : : "r"(&value) : "memory");
    }
};

constexpr KernelTable kTable = Kernels<Plain>::table("plain");

}  // namespace

const KernelTable* plain_kernels() { return &kTable; }

}  // namespace aquatint
