// Every machine: the kernels in ordinary C++.
#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Plain {
    static constexpr int width = 8, rows = 4;
    struct Float {
        float v[width];
    };
    struct Int {
        int32_t v[width];
    };
    struct Bytes {
        uint8_t v[4 * width];
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

    static Float zero() { return each<Float>([](int) { return 0.0f; }); }
    static Float set(float x) { return each<Float>([=](int) { return x; }); }
    static Float load(const float* p) { return each<Float>([=](int i) { return p[i]; }); }
    static void store(float* p, Float a) { std::copy(a.v, a.v + width, p); }
    static Float add(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] + b.v[i]; }); }
    static Float mul(Float a, Float b) { return each<Float>([&](int i) { return a.v[i] * b.v[i]; }); }
    static Float fma(Float a, Float b, Float c) { return each<Float>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
    static Int zero_int() { return set_int(0); }
    static Int set_int(int32_t x) { return each<Int>([=](int) { return x; }); }
    static Float to_float(Int a, Int offset) { return each<Float>([&](int i) { return float(a.v[i] - offset.v[i]); }); }
    static Bytes load_bytes(const uint8_t* p) {
        Bytes out;
        std::memcpy(out.v, p, sizeof out.v);
        return out;
    }
    static Four set_four(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
    static Int dot(Int sum, const Bytes& w, Four x) {
        return each<Int>([&](int i) {
            int32_t total = sum.v[i];
            for (int j = 0; j < 4; ++j) total += int32_t(w.v[4 * i + j]) * x.v[j];
            return total;
        });
    }
};

constexpr KernelTable kTable = Kernels<Plain>::table("plain");

}  // namespace

const KernelTable* plain_kernels() { return &kTable; }

}  // namespace aquatint
