// AVX-512 with VNNI: vpdpbusd multiplies unsigned weights by signed activations, four neighbours at a time.
#include <immintrin.h>

#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Avx512 {
    static constexpr int width = 16, rows = 12;
    using Float = __m512;
    using Int = __m512i;

    static Float zero() { return _mm512_setzero_ps(); }
    static Float set(float x) { return _mm512_set1_ps(x); }
    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Int zero_int() { return _mm512_setzero_si512(); }
    static Int set_int(int32_t x) { return _mm512_set1_epi32(x); }
    static Float to_float(Int a, Int offset) { return _mm512_cvtepi32_ps(_mm512_sub_epi32(a, offset)); }
    static Int load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static Int set_four(const int8_t* p) {
        int32_t four;
        std::memcpy(&four, p, sizeof four);
        return _mm512_set1_epi32(four);
    }
    static Int dot(Int sum, Int w, Int x) { return _mm512_dpbusd_epi32(sum, w, x); }
};

constexpr KernelTable kTable = Kernels<Avx512>::table("avx512-vnni");

}  // namespace

const KernelTable* avx512_kernels() { return &kTable; }

}  // namespace aquatint
