// What consumer Blackwell has on top, as functions: 4-bit floats, sixteen of which share a scale that the product reads itself.
// Semantics: PTX ISA 8.7, "Block Scaling for mma.sync"; compiled for sm_120f alone.
//
// tests/native/emulator/cuda/blackwell.h is the same in plain C++.
#pragma once

#include <cstdint>

namespace aquatint {

// D (16, 8) += A (16, 64) B (8, 64)^T in e2m1, each sixteen along k times their scale in e4m3: four scales a word. Lane 4 r + i
// has row r + 8 i of A's for i = 0, 1, and lane 4 c column c of B's.
__device__ inline void product_of_scaled(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high, uint32_t a_scales,
                                         uint32_t b_scales) {
    asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, %10, {0, 0}, %11, {0, 0};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b_low), "r"(b_high), "r"(a_scales), "r"(b_scales));
}

// The nearest code, half to even, the largest where it is too large; `low` in the low nibble.
__device__ inline uint32_t two_e2m1(float low, float high) {
    uint32_t codes;
    asm("{\n.reg .b8 both;\ncvt.rn.satfinite.e2m1x2.f32 both, %1, %2;\ncvt.u32.u8 %0, both;\n}"
        : "=r"(codes)
        : "f"(high), "f"(low));
    return codes;
}

__device__ inline uint8_t e4m3(float value) {
    uint16_t both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(0.0f), "f"(value));
    return uint8_t(both);
}

__device__ inline float float_of_e4m3(uint8_t code) {
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(uint16_t(code)));
    float value;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.f32.f16 %0, low;\n}" : "=f"(value) : "r"(halves));
    return value;
}

}  // namespace aquatint
