// A block of a weight, 128 outputs by 128 along K, as 128 threads read 64 of its outputs: each its registers of A together.
//
// Packed by runtime/cuda/pack.py. Four products of k = 32 take four registers each: rows r and r + 8 in turn, bytes 4 q to
// 4 q + 3 and then 16 further, for r = lane / 4, q = lane % 4 (PTX ISA, "Register fragments for wgmma"; those of
// mma.m16n8k32 are the same).
#pragma once

#include <cstdint>

namespace aquatint {

template <int Bits>
struct Weight;

template <>
struct Weight<8> {
    static constexpr int kBlock = 128 * 128;

    // For two of the products.
    __device__ static void widen(uint32_t (&a)[2][4], const uint8_t* block, int group, int half, int thread) {
        auto* stored = reinterpret_cast<const uint4*>(block) + group * 512 + half * 256 + thread;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            uint4 word = stored[i * 128];
            a[i][0] = word.x, a[i][1] = word.y, a[i][2] = word.z, a[i][3] = word.w;
        }
    }
};

// Codes 0..15 for -8..7, eight a word: the low nibbles are one register, the high ones the register for 16 further along K.
// Behind them each group's scale, a whole number of 1..16: rows r and r + 8 for the first 64, then for the second.
template <>
struct Weight<4> {
    static constexpr int kCodes = 128 * 64, kBlock = kCodes + 256;

    __device__ static void widen(uint32_t (&a)[2][4], const uint8_t* block, int group, int half, int thread) {
        uint4 word = reinterpret_cast<const uint4*>(block)[group * 256 + half * 128 + thread];
        int row = thread / 32 * 8 + thread % 32 / 4;
        uint32_t scales = reinterpret_cast<const uint32_t*>(block + kCodes)[group * 32 + row];
        uint32_t low = scales >> (16 * half) & 255, high = scales >> (16 * half + 8) & 255;
        scaled(a[0], word.x, word.y, low, high);
        scaled(a[1], word.z, word.w, low, high);
    }

    // Bytes (code - 8) scale. With 128 on top each stays within 0..240, so four are one multiplication without a carry.
    __device__ static void scaled(uint32_t (&a)[4], uint32_t first, uint32_t second, uint32_t low, uint32_t high) {
        constexpr uint32_t kNibbles = 0x0f0f0f0f, kEights = 0x08080808, kTop = 0x80808080;
        uint32_t at_low = kTop - low * kEights, at_high = kTop - high * kEights;
        a[0] = ((first & kNibbles) * low + at_low) ^ kTop;
        a[1] = ((second & kNibbles) * high + at_high) ^ kTop;
        a[2] = ((first >> 4 & kNibbles) * low + at_low) ^ kTop;
        a[3] = ((second >> 4 & kNibbles) * high + at_high) ^ kTop;
    }
};

}  // namespace aquatint
