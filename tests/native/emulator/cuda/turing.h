// csrc/cuda/turing.h in plain C++; what each lane has of a matrix is as the PTX ISA lays it down.
#pragma once

#include "cuda/number.h"

namespace aquatint {

inline uint8_t* dynamic_shared() { return emulator::cluster.block().shared; }

inline uint32_t shared_address(const void* pointer) {
    return uint32_t(static_cast<const uint8_t*>(pointer) - emulator::cluster.block().shared);
}

inline uint4 load_matrices(const void* from) {
    const void* const* rows = emulator::all_lanes(from);
    int lane = threadIdx.x % 32;
    uint32_t found[4];
    for (int i = 0; i < 4; ++i) std::memcpy(found + i, static_cast<const uint8_t*>(rows[8 * i + lane / 4]) + lane % 4 * 4, 4);
    return {found[0], found[1], found[2], found[3]};
}

inline void store_turned(uint8_t* to, int pitch, int lane, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    struct Own {
        uint32_t of[4];
    };
    const Own* lanes = emulator::all_lanes(Own{{a, b, c, d}});
    int row = lane / 4, first = lane % 4 * 2;
    for (int i = 0; i < 4; ++i)
        for (int column = first; column < first + 2; ++column) {
            uint16_t half = lanes[column * 4 + row / 2].of[i] >> (row % 2 * 16);
            std::memcpy(to + (i / 2 * 8 + row) * pitch + i % 2 * 16 + column * 2, &half, 2);
        }
}

// Of A (8 or 16, k) and B (8, k) each register holds `Each` numbers of a row; k is 4 `Each` for each of a row's registers.
template <int Far>
struct Operands {
    uint32_t a[Far][2], b[Far];
};

template <int Each, int Far, int Rows, class Sum, class Number>
void product_of(Sum* d, const Operands<Far>& own, Number number) {
    const Operands<Far>* lanes = emulator::all_lanes(own);
    int lane = threadIdx.x % 32;
    for (int i = 0; i < Rows / 4; ++i) {
        int column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 4 * Each * Far; ++k) {
            int far = k / (4 * Each), quad = k / Each % 4;
            d[i] += number(lanes[lane / 4 * 4 + quad].a[far][i / 2], k % Each) * number(lanes[column * 4 + quad].b[far], k % Each);
        }
    }
}

inline float number_of(uint32_t word, int i) { return i ? two_floats(word).y : two_floats(word).x; }
inline int byte_of(uint32_t word, int i) { return int8_t(word >> (8 * i)); }
inline int nibble_of(uint32_t word, int i) { return int32_t(word << (28 - 4 * i)) >> 28; }

inline void product_along_8(float (&d)[4], uint32_t a_low, uint32_t a_high, uint32_t b) {
    product_of<2, 1, 16>(d, {{{a_low, a_high}}, {b}}, number_of);
}

inline void product_along_16(int& d_low, int& d_high, uint32_t a, uint32_t b) {
    int d[2] = {d_low, d_high};
    product_of<4, 1, 8>(d, {{{a, 0}}, {b}}, byte_of);
    d_low = d[0], d_high = d[1];
}

inline void product_along_32(int& d_low, int& d_high, uint32_t a, uint32_t b) {
    int d[2] = {d_low, d_high};
    product_of<8, 1, 8>(d, {{{a, 0}}, {b}}, nibble_of);
    d_low = d[0], d_high = d[1];
}

}  // namespace aquatint
