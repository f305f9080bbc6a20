// csrc/cuda/ampere.h in plain C++.
#pragma once

#include "cuda/turing.h"

namespace aquatint {

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

inline void product(float (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    product_of<2, 2, 16>(d, {{{a.x, a.y}, {a.z, a.w}}, {b_low, b_high}}, number_of);
}

inline void product_of_bytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
    product_of<4, 2, 16>(d, {{{a[0], a[1]}, {a[2], a[3]}}, {b_low, b_high}}, byte_of);
}

inline void product_of_nibbles(int (&d)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
    product_of<8, 2, 16>(d, {{{a.x, a.y}, {a.z, a.w}}, {b_low, b_high}}, nibble_of);
}

}  // namespace aquatint
