// csrc/cuda/wgmma.h in plain C++: B is read, and D written, when the product is waited for.
#pragma once

#include "cuda/hopper.h"

namespace aquatint {

template <int N>
struct Wgmma {
    static constexpr int kRegisters = N / 2;

    // A warp's sixteen of the 64 rows: what its lanes have of A is enough.
    static void bytes(int (&d)[kRegisters], const uint32_t (&a)[4], uint64_t b, int add) {
        struct Own {
            uint32_t of[4];
        };
        const Own* found = emulator::all_lanes(Own{{a[0], a[1], a[2], a[3]}});
        std::vector<Own> lanes(found, found + 32);
        const uint8_t* shared = dynamic_shared();
        int lane = threadIdx.x % 32;
        emulator::cluster.now->products.open.push_back([=, &d] {
            for (int i = 0; i < kRegisters; ++i) {
                int row = lane / 4 + i / 2 % 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2, sum = 0;
                for (int k = 0; k < 32; ++k) {
                    uint32_t place = uint32_t(b << 4) + token * 128 + k;
                    int x = int8_t(shared[place ^ (place >> 7 & 7) << 4]);
                    sum += x * int8_t(lanes[row % 8 * 4 + k % 16 / 4].of[k / 16 * 2 + row / 8] >> (8 * (k % 4)));
                }
                d[i] = (add ? d[i] : 0) + sum;
            }
        });
    }
};

}  // namespace aquatint
