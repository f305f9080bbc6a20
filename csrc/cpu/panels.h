// How weights lie in memory: in panels of P = 2 * width output columns, so that one row of a panel fills two registers.
//
//   weight   of 4 bits (N/P, K/4, 4 * width bytes): a byte holds column j in its low and column j + width in its high nibble, as
//            code + 8, for multipliers that take an unsigned operand; four neighbours in k lie together
//            of 8 bits (N/P, K/4, 4 * P bytes): the same, one a byte, as code + 128; for tiles as it is
//   scales   (N/P, groups, P) float, for each 64 of k or as many of these as have one;  bias (N/P, P) float
//   wholes   (N/P, K/64, P) int32, where groups have whole numbers on top of one scale a column
//   up       (N/P, rank/2, P, 2) words (words.h), and down (rank/P, K/2, P, 2), with a scale for each column: (N/P, P) float
#pragma once

#include <cstdint>

#include "common/codec.h"

namespace aquatint {

constexpr int64_t kGroup = 64;

template <class V>
struct Panels {
    static constexpr int64_t kColumns = 2 * V::width;

    static int64_t count(int64_t n) { return (n + kColumns - 1) / kColumns; }
    static int64_t columns() { return kColumns; }
    static int64_t packed_bytes(int bits, int64_t n, int64_t k) { return count(n) * kColumns * k * bits / 8; }

    static void pack(int bits, const void* codes, int64_t n, int64_t k, uint8_t* packed) {
        if (bits == 4)
            pack_nibbles(static_cast<const uint8_t*>(codes), n, k, packed);
        else
            pack_bytes(static_cast<const int8_t*>(codes), n, k, packed);
    }

    static void pack_bytes(const int8_t* codes, int64_t n, int64_t k, uint8_t* packed) {
        constexpr int middle = V::has_tiles ? 0 : 128;
        for (int64_t panel = 0; panel < count(n); ++panel)
            for (int64_t k4 = 0; k4 < k / 4; ++k4)
                for (int64_t row = panel * kColumns; row < (panel + 1) * kColumns; ++row)
                    for (int i = 0; i < 4; ++i) *packed++ = uint8_t(row < n ? codes[row * k + k4 * 4 + i] + middle : middle);
    }

    static void pack_nibbles(const uint8_t* codes, int64_t n, int64_t k, uint8_t* packed) {
        auto code = [&](int64_t row, int64_t column) {
            if (row >= n) return 8;
            uint8_t pair = codes[(row * k + column) / 2];
            return (column % 2 ? high_code(pair) : low_code(pair)) + 8;
        };
        for (int64_t panel = 0; panel < count(n); ++panel)
            for (int64_t k4 = 0; k4 < k / 4; ++k4)
                for (int j = 0; j < V::width; ++j)
                    for (int i = 0; i < 4; ++i) {
                        int64_t row = panel * kColumns + j;
                        *packed++ = uint8_t(code(row, k4 * 4 + i) | code(row + V::width, k4 * 4 + i) << 4);
                    }
    }

    // Columns [0, width) of all k, then the others: (K/4, P * 4 bytes), one code a byte.
    // With `wholes`, a number for each group and column, the code times it, plus 128 instead of 8.
    static void unpack(const uint8_t* packed, int64_t k, const int32_t* wholes, uint8_t* bytes) {
        constexpr int64_t half = V::width * 4, group = kGroup / 4 * half;
        if constexpr (V::wide_sums)
            if (wholes) {
                for (int64_t g = 0; g < k / kGroup; ++g, packed += group, bytes += 2 * group, wholes += kColumns)
                    V::template unpack_times<128>(packed, bytes, wholes);
                return;
            }
        for (int64_t k4 = 0; k4 < k / 4; ++k4, packed += half, bytes += 2 * half) V::unpack(packed, bytes);
    }
};

}  // namespace aquatint
