// AVX-512 with VNNI: vpdpbusd adds four products of unsigned and signed bytes to 32 bits.
#pragma once

#include "cpu/avx512.h"

namespace aquatint {
namespace {

struct Avx512Vnni : Avx512Floats {
    static constexpr bool wide_sums = true;
    static constexpr int whole_rows = 12;

    static int32_t start(const int8_t* codes) {
        Int sums = _mm512_dpbusd_epi32(zero_int(), _mm512_set1_epi8(1), load_bytes(reinterpret_cast<const uint8_t*>(codes)));
        return -8 * _mm512_reduce_add_epi32(sums);
    }
    static Sum dot(Sum sum, Int w, Int x) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));  // in place by hand: g++ would move every sum to and fro
        return sum;
    }
    static Int dot_words(Int sum, Int a, Int b) {
        asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    // A group of 64 codes of 4 bits in 32 columns as bytes, times `wholes`: for each column a number from 1 to 16, in the first
    // and third byte of four; null: times one. Plus `Middle`: 0 for signed bytes, 128 for unsigned ones. Or some of its 16 lines.
    template <int Middle>
    static void unpack_times(const uint8_t* packed, uint8_t* bytes, const int32_t* wholes, int64_t first = 0, int64_t last = 16) {
        Int mask = _mm512_set1_epi8(15), one = _mm512_set1_epi16(1), whole[2], middle[2];
        for (int half = 0; half < 2; ++half) {
            whole[half] = wholes ? _mm512_loadu_si512(wholes + half * width) : one;
            middle[half] = _mm512_or_si512(_mm512_slli_epi16(whole[half], 3), _mm512_slli_epi16(whole[half], 11));
            middle[half] = _mm512_sub_epi8(middle[half], _mm512_set1_epi8(char(Middle)));
        }
        for (int64_t line = first; line < last; ++line) {
            __builtin_prefetch(packed + 64 * line + 2048);
            Int pairs = load_bytes(packed + 64 * line), codes[2] = {pairs, _mm512_srli_epi16(pairs, 4)};
            for (int half = 0; half < 2; ++half) {  // at most 15 * 16 fits a byte, so two products in 16 bits leave each other alone
                Int product = _mm512_mullo_epi16(_mm512_and_si512(codes[half], mask), whole[half]);
                _mm512_storeu_si512(bytes + 128 * line + 64 * half, _mm512_sub_epi8(product, middle[half]));
            }
        }
    }
    static Sum times_128(Sum sum) { return _mm512_slli_epi32(sum, 7); }
    static Float total(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

}  // namespace
}  // namespace aquatint
