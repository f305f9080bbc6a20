// AVX2 with FMA. Bytes are multiplied by vpmaddubsw, whose 16-bit sums can't overflow here: 2 * 15 * 128 < 32768.
#include <immintrin.h>

#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Avx2 {
    static constexpr int width = 8, rows = 4;
    using Float = __m256;
    using Int = __m256i;

    static Float zero() { return _mm256_setzero_ps(); }
    static Float set(float x) { return _mm256_set1_ps(x); }
    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Int zero_int() { return _mm256_setzero_si256(); }
    static Int set_int(int32_t x) { return _mm256_set1_epi32(x); }
    static Float to_float(Int a, Int offset) { return _mm256_cvtepi32_ps(_mm256_sub_epi32(a, offset)); }
    static Int load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static Int set_four(const int8_t* p) {
        int32_t four;
        std::memcpy(&four, p, sizeof four);
        return _mm256_set1_epi32(four);
    }
    static Int dot(Int sum, Int w, Int x) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
    }
};

constexpr KernelTable kTable = Kernels<Avx2>::table("avx2");

}  // namespace

const KernelTable* avx2_kernels() { return &kTable; }

}  // namespace aquatint
