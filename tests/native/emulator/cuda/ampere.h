// csrc/cuda/ampere.h in plain C++; what each lane has of a matrix is as the PTX ISA lays it down.
#pragma once

#include "cuda_bf16.h"

namespace aquatint {

inline uint8_t* dynamic_shared() { return emulator::cluster.block().shared; }

inline uint32_t shared_address(const void* pointer) {
    return uint32_t(static_cast<const uint8_t*>(pointer) - emulator::cluster.block().shared);
}

inline uint32_t two_halves(float low, float high) {
    return float_to_bfloat16(low) | uint32_t(float_to_bfloat16(high)) << 16;
}

inline void copy_16(void* to, const void* from, bool there) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
        throw std::runtime_error("a copy of 16 bytes that are not aligned to 16");
    std::memset(to, 0xee, 16);
    emulator::cluster.now->copies.open.push_back([=] { there ? std::memcpy(to, from, 16) : std::memset(to, 0, 16); });
}

inline void copies_commit() { emulator::cluster.now->copies.commit(); }

template <int Pending>
void copies_wait() {
    emulator::cluster.now->copies.wait(Pending);
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

// Of A (16, k) and B (8, k) each register holds `Each` numbers of a row; k is 8 `Each`.
struct Operands {
    uint32_t a[4], b[2];
};

template <int Each, class Sum, class Number>
void product_of(Sum (&d)[4], const Operands& own, Number number) {
    const Operands* lanes = emulator::all_lanes(own);
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 8 * Each; ++k) {
            int far = k / (4 * Each), quad = k / Each % 4;
            d[i] += number(lanes[row % 8 * 4 + quad].a[far * 2 + row / 8], k % Each) *
                    number(lanes[column * 4 + quad].b[far], k % Each);
        }
    }
}

inline void product(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    auto half = [](uint32_t word, int i) { return bfloat16_to_float(uint16_t(word >> (16 * i))); };
    product_of<2>(d, {{a.x, a.y, a.z, a.w}, {b_low, b_high}}, half);
}

inline void product_of_bytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
    auto byte = [](uint32_t word, int i) { return int(int8_t(word >> (8 * i))); };
    product_of<4>(d, {{a[0], a[1], a[2], a[3]}, {b_low, b_high}}, byte);
}

inline void product_of_nibbles(int (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    auto nibble = [](uint32_t word, int i) { return int32_t(word << (28 - 4 * i)) >> 28; };
    product_of<8>(d, {{a.x, a.y, a.z, a.w}, {b_low, b_high}}, nibble);
}

}  // namespace aquatint
