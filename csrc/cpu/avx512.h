// What every AVX-512 machine (F, BW, DQ, VL) has in common; how bytes are multiplied is added by who includes it.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "cpu/kernels.h"

namespace aquatint {
namespace {

struct Avx512Floats {
    static constexpr int width = 16, rows = 6;
    static constexpr bool many_registers = true, has_tiles = false;
    static constexpr int64_t many_rows = rows;
    using Float = __m512;
    using Int = __m512i;
    using Words = Int;
    using Sum = __m512i;

    static Float zero() { return _mm512_setzero_ps(); }
    static Float set(float x) { return _mm512_set1_ps(x); }
    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
    static __mmask16 first(int64_t count) { return __mmask16((1u << count) - 1); }
    static Float load_first(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(first(count), p); }
    static void store_first(float* p, Float a, int64_t count) { _mm512_mask_storeu_ps(p, first(count), a); }
    static void stream(float* p, Float a) { _mm512_stream_ps(p, a); }
    static void fence() { _mm_sfence(); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float reciprocal(Float a) {  // 14 bits, and one step of Newton's: a division takes as long as ten of these
        Float near = _mm512_rcp14_ps(a);
        return _mm512_fmadd_ps(near, _mm512_fnmadd_ps(a, near, _mm512_set1_ps(1.0f)), near);
    }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
    static Float round(Float a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Float magnitude(Float a) { return _mm512_abs_ps(a); }
    static Float scale_by_power(Float a, Float n) {
        return _mm512_scalef_ps(a, n);
    }

    static Int zero_int() { return _mm512_setzero_si512(); }
    static Int larger_magnitude(Int largest, Float x) { return _mm512_max_epu32(largest, _mm512_castps_si512(magnitude(x))); }
    static uint32_t largest_lane(Int a) { return _mm512_reduce_max_epu32(a); }
    static void store_codes(int8_t* p, Float a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
    }
    // Codes of 4 bits, two a byte.
    static void store_pairs(uint8_t* p, Float a) {
        Int codes = _mm512_cvtps_epi32(a), low = _mm512_and_si512(codes, _mm512_set1_epi64(0x0f));
        Int high = _mm512_and_si512(_mm512_srli_epi64(codes, 28), _mm512_set1_epi64(0xf0));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_cvtepi64_epi8(_mm512_or_si512(low, high)));
    }

    static void unpack(const uint8_t* packed, uint8_t* bytes) {
        Int pairs = load_bytes(packed), mask = _mm512_set1_epi8(15);
        _mm512_storeu_si512(bytes, _mm512_and_si512(pairs, mask));
        _mm512_storeu_si512(bytes + 64, _mm512_and_si512(_mm512_srli_epi16(pairs, 4), mask));
    }
    static Float nibble(Int a, int shift) {
        const Float codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        return _mm512_permutexvar_ps(_mm512_srli_epi32(a, unsigned(shift)), codes);  // which reads four bits of each lane
    }
    static Float load_codes(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
    static void store_words(int16_t* p, Float a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a)));
    }
    // Two registers as words, taking turns.
    static void store_word_pairs(int16_t* p, Float a, Float b) {
        Int first = _mm512_and_si512(_mm512_cvtps_epi32(a), _mm512_set1_epi32(0xffff)), second = _mm512_cvtps_epi32(b);
        _mm512_storeu_si512(p, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
    static Int load_words(const int16_t* p) { return _mm512_loadu_si512(p); }
    static Int set_pair(const int16_t* p) { return set_four(reinterpret_cast<const int8_t*>(p)); }
    static Int load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static Int set_four(const int8_t* p) {
        int32_t four;
        std::memcpy(&four, p, sizeof four);
        return _mm512_set1_epi32(four);
    }
    static Sum start_sum(int32_t x) { return _mm512_set1_epi32(x); }
    template <class T>
    static void keep(T& value) {
        asm volatile("" : "+v"(value));
    }
};

}  // namespace
}  // namespace aquatint
