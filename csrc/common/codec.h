// Bits of numbers: the part of the formats that kernels of every kind share. Compiles in g++ and nvcc.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define AQ_HOST_DEVICE __host__ __device__
#else
#define AQ_HOST_DEVICE
#endif

namespace aquatint {

// Below this a group counts as zero, as in compiler/formats.py.
constexpr float kSmallestScale = 1e-30f;

AQ_HOST_DEVICE inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

AQ_HOST_DEVICE inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

AQ_HOST_DEVICE inline float bfloat16_to_float(uint16_t bits) { return float_of(uint32_t(bits) << 16); }

// Round to nearest, half to even; a NaN stays one.
AQ_HOST_DEVICE inline uint16_t float_to_bfloat16(float value) {
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Two signed 4-bit codes in a byte, low nibble first.
AQ_HOST_DEVICE inline int low_code(uint8_t pair) { return int8_t(pair << 4) >> 4; }
AQ_HOST_DEVICE inline int high_code(uint8_t pair) { return int8_t(pair) >> 4; }
AQ_HOST_DEVICE inline uint8_t pack_codes(int low, int high) { return uint8_t((low & 15) | ((high & 15) << 4)); }

// The scale of a group whose largest magnitude is `largest`, for codes up to `maximum`.
AQ_HOST_DEVICE inline float group_scale(float largest, float maximum) {
    float scale = largest / maximum;
    return scale < kSmallestScale ? 1.0f : scale;
}

}  // namespace aquatint
