// AVX-512 with VNNI: vpdpbusd adds four products of unsigned and signed bytes to 32 bits.
#pragma once

#include "cpu/avx512.h"

namespace aquatint {
namespace {

struct Avx512Vnni : Avx512Floats {
    static constexpr bool wide_sums = true;

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
    static Float total(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

}  // namespace
}  // namespace aquatint
