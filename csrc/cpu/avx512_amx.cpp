// AVX-512 with VNNI, and AMX for products of codes, the low-rank branch, and attention.
#include "cpu/avx512_vnni.h"
#include "cpu/tile_attention.h"
#include "cpu/tile_bytes.h"
#include "cpu/tile_product.h"

namespace aquatint {
namespace {

struct Avx512Amx : Avx512Vnni {
    static constexpr bool has_tiles = true;
    static constexpr int64_t many_rows = kPair;

    static Int load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
    static Int as_ints(Float a) { return _mm512_castps_si512(a); }

    static void store_halves(Float a, uint16_t* to) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), __m256i(_mm512_cvtneps_pbh(a)));
    }

    // Two registers, one behind the other.
    static void store_halves(Float a, Float b, uint16_t* to) { _mm512_storeu_si512(to, __m512i(_mm512_cvtne2ps_pbh(b, a))); }

    static Float near_reciprocal(Float a) { return _mm512_rcp14_ps(a); }
    static float largest(Float a) { return _mm512_reduce_max_ps(a); }
    static Float fraction(Float a) { return _mm512_reduce_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

    static Float load_halves(const uint16_t* from) {
        Int halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
    }

    // The larger and the smaller half of each number.
    static void store_halves(Float a, uint16_t* large, uint16_t* small) {
        auto first = _mm512_cvtneps_pbh(a);
        auto rest = _mm512_cvtneps_pbh(_mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(__m256i(first)), 16))));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(large), __m256i(first));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(small), __m256i(rest));
    }

    // Two registers as bfloat16, taking turns.
    static void store_alternating(Float a, Float b, uint16_t* to) {
        Int first = _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(a))), second = _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(b)));
        _mm512_storeu_si512(to, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }

    // 16 rows of 16 pairs, `from_row` numbers apart, as 16 rows of 16 pairs with rows and columns exchanged.
    static void transpose(const uint16_t* from, int64_t from_row, uint16_t* to, int64_t to_row) {
        Int a[16], b[16];
        unroll<16>([&](auto i) { a[i] = _mm512_loadu_si512(from + i * from_row); });
        unroll<8>([&](auto i) {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        });
        unroll<4>([&](auto i) {
            unroll<2>([&](auto j) {
                a[4 * i + 2 * j] = _mm512_unpacklo_epi64(b[4 * i + j], b[4 * i + j + 2]);
                a[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(b[4 * i + j], b[4 * i + j + 2]);
            });
        });  // a[4 i + c] has columns c, c + 4, c + 8, c + 12 of rows 4 i to 4 i + 3
        unroll<4>([&](auto c) {
            Int even_low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), odd_low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
            Int even_high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88), odd_high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
            _mm512_storeu_si512(to + c * to_row, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
            _mm512_storeu_si512(to + (c + 4) * to_row, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
            _mm512_storeu_si512(to + (c + 8) * to_row, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
            _mm512_storeu_si512(to + (c + 12) * to_row, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
        });
    }
};

}  // namespace

template <>
struct Ways<Avx512Amx> {
    using Multiplication = TileProduct<Avx512Amx>;
    using Branch = Halves<Avx512Amx>;
    using Down = TileBytes<Avx512Amx>;
    using Attending = TileAttention<Avx512Amx>;
};

namespace {

constexpr KernelTable kTable = Kernels<Avx512Amx>::table("avx512-amx");

}  // namespace

const KernelTable* avx512_amx_kernels() { return &kTable; }

}  // namespace aquatint
