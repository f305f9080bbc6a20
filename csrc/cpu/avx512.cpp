// AVX-512 without VNNI: sums of 16 bits, as in avx2.cpp.
#include "cpu/avx512.h"

namespace aquatint {
namespace {

struct Avx512 : Avx512Floats {
    static constexpr bool wide_sums = false;
    static constexpr int whole_rows = rows;

    // Two 16-bit starts, for the lanes that hold the first and the last two of each four codes.
    static int32_t start(const int8_t* codes) {
        Int pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), load_bytes(reinterpret_cast<const uint8_t*>(codes)));
        Int first = _mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16), last = _mm512_srai_epi32(pairs, 16);
        uint32_t low = uint32_t(-8 * _mm512_reduce_add_epi32(first)), high = uint32_t(-8 * _mm512_reduce_add_epi32(last));
        return int32_t((low & 0xffff) | (high << 16));
    }
    static Sum dot(Sum sum, Int w, Int x) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(w, x)); }
    static Int dot_words(Int sum, Int a, Int b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
    static Float total(Sum sum) { return _mm512_cvtepi32_ps(_mm512_madd_epi16(sum, _mm512_set1_epi16(1))); }
};

constexpr KernelTable kTable = Kernels<Avx512>::table("avx512");

}  // namespace

const KernelTable* avx512_kernels() { return &kTable; }

}  // namespace aquatint
