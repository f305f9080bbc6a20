// AVX2 with FMA. vpmaddubsw adds two products of bytes to 16 bits. As weights are 0 .. 15, a sum that starts at -8 times the
// codes stays within 32 * 8 * 127 = 32512 over a whole group, so it is widened once a group and not at every step.
#include <immintrin.h>

#include <cstring>

#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Avx2 {
    static constexpr int width = 8, rows = 6;
    static constexpr bool many_registers = false, has_tiles = false;
    static constexpr int64_t many_rows = rows;
    static constexpr bool wide_sums = false;
    static constexpr int whole_rows = rows;
    using Float = __m256;
    using Int = __m256i;
    using Words = Int;
    using Sum = __m256i;

    static Float zero() { return _mm256_setzero_ps(); }
    static Float set(float x) { return _mm256_set1_ps(x); }
    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
    static Float load_first(const float* p, int64_t count) { return load_one_by_one<Avx2>(p, count); }
    static void store_first(float* p, Float a, int64_t count) { store_one_by_one<Avx2>(p, a, count); }
    static void stream(float* p, Float a) { _mm256_stream_ps(p, a); }
    static void fence() { _mm_sfence(); }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float reciprocal(Float a) { return _mm256_div_ps(set(1.0f), a); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
    static Float round(Float a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Float magnitude(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static Float scale_by_power(Float a, Float n) {
        return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
    }

    static Int zero_int() { return _mm256_setzero_si256(); }
    static Int larger_magnitude(Int largest, Float x) {
        return _mm256_max_epu32(largest, _mm256_castps_si256(magnitude(x)));
    }
    static uint32_t largest_lane(Int a) {
        alignas(32) uint32_t lanes[width];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
        return *std::max_element(lanes, lanes + width);
    }
    static void store_codes(int8_t* p, Float a) {
        Int wide = _mm256_cvtps_epi32(a);
        __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(half, half));
    }
    // Codes of 4 bits, two a byte.
    static void store_pairs(uint8_t* p, Float a) {
        Int codes = _mm256_cvtps_epi32(a), low = _mm256_and_si256(codes, _mm256_set1_epi64x(0x0f));
        Int high = _mm256_and_si256(_mm256_srli_epi64(codes, 28), _mm256_set1_epi64x(0xf0));
        Int bytes = _mm256_shuffle_epi8(_mm256_or_si256(low, high), _mm256_set1_epi64x(0x0800));
        uint32_t first = _mm256_extract_epi16(bytes, 0), second = _mm256_extract_epi16(bytes, 8), four = first | second << 16;
        std::memcpy(p, &four, sizeof four);
    }

    static void unpack(const uint8_t* packed, uint8_t* bytes) {
        Int pairs = load_bytes(packed), mask = _mm256_set1_epi8(15);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm256_and_si256(pairs, mask));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + 32), _mm256_and_si256(_mm256_srli_epi16(pairs, 4), mask));
    }
    static Float nibble(Int a, int shift) {
        Int code = _mm256_and_si256(_mm256_srli_epi32(a, shift), _mm256_set1_epi32(15));
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
    }
    static Float load_codes(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
    static void store_words(int16_t* p, Float a) {
        Int wide = _mm256_cvtps_epi32(a);
        __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
    }
    // Two registers as words, taking turns.
    static void store_word_pairs(int16_t* p, Float a, Float b) {
        Int first = _mm256_and_si256(_mm256_cvtps_epi32(a), _mm256_set1_epi32(0xffff)), second = _mm256_cvtps_epi32(b);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_or_si256(first, _mm256_slli_epi32(second, 16)));
    }
    static Int load_words(const int16_t* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
    static Int set_pair(const int16_t* p) { return set_four(reinterpret_cast<const int8_t*>(p)); }
    static Int dot_words(Int sum, Int a, Int b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
    static Int load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static Int set_four(const int8_t* p) {
        int32_t four;
        std::memcpy(&four, p, sizeof four);
        return _mm256_set1_epi32(four);
    }

    // Two 16-bit starts, for the lanes that hold the first and the last two of each four codes.
    static int32_t start(const int8_t* codes) {
        auto* p = reinterpret_cast<const uint8_t*>(codes);
        Int ones = _mm256_set1_epi8(1);
        Int pairs = _mm256_add_epi16(_mm256_maddubs_epi16(ones, load_bytes(p)), _mm256_maddubs_epi16(ones, load_bytes(p + 32)));
        __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
        sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0xb1));
        return _mm_cvtsi128_si32(_mm_mullo_epi16(sum, _mm_set1_epi16(-8)));
    }
    static Sum start_sum(int32_t x) { return _mm256_set1_epi32(x); }
    static Sum dot(Sum sum, Int w, Int x) {
        Int products;  // in place by hand: g++ would move every sum to and fro
        asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(w), "x"(x));
        return sum;
    }
    static Float total(Sum sum) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))); }
    template <class T>
    static void keep(T& value) {
        asm volatile("" : "+x"(value));
    }
};

constexpr KernelTable kTable = Kernels<Avx2>::table("avx2");

}  // namespace

const KernelTable* avx2_kernels() { return &kTable; }

}  // namespace aquatint
