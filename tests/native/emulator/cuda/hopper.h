// csrc/cuda/hopper.h in plain C++.
#pragma once

#include "cuda/ampere.h"

namespace aquatint {

// As tests/runtime/emulated.py makes it.
struct alignas(64) TensorMap {
    const uint8_t* matrix;
    int64_t rows, columns;
    int32_t box_rows, box_columns;
    uint8_t rest[96];
};

// What lies in the eight bytes of a barrier.
struct Barrier {
    int32_t bytes;
    uint8_t expected, missing, phase, unused;

    void advance() {
        if (missing == 0 && bytes == 0) missing = expected, phase ^= 1;
    }
};

inline Barrier& barrier_at(uint64_t* barrier) { return *reinterpret_cast<Barrier*>(barrier); }

inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
    barrier_at(barrier) = {0, uint8_t(arrivals), uint8_t(arrivals), 0, 0};
}

inline void barrier_init_fence() {}

inline void barrier_arrive(uint64_t* barrier) {
    if (barrier_at(barrier).missing-- == 0) throw std::runtime_error("more arrive at a barrier than it waits for");
    barrier_at(barrier).advance();
}

inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
    barrier_at(barrier).bytes += bytes;
    barrier_arrive(barrier);
}

inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
    emulator::cluster.wait([=] { return barrier_at(barrier).phase != parity; });
}

inline void async_fence() {}

inline void by_engine(uint64_t* barrier, uint32_t bytes, std::function<void()> copy) {
    emulator::cluster.engine.push_back([=] {
        copy();
        barrier_at(barrier).bytes -= bytes;
        barrier_at(barrier).advance();
    });
}

inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16 || bytes % 16)
        throw std::runtime_error("a bulk copy that is not aligned to 16");
    std::memset(to, 0xee, bytes);
    by_engine(barrier, bytes, [=] { std::memcpy(to, from, bytes); });
}

// Rows of 128 bytes, swizzled; zeros beyond the matrix.
inline void box_copy(void* to, const TensorMap* map, int column, int row, uint64_t* barrier) {
    TensorMap own = *map;
    uint32_t bytes = own.box_rows * own.box_columns;
    if (own.box_columns != 128 || reinterpret_cast<uintptr_t>(to) % 1024) throw std::runtime_error("no such box");
    std::memset(to, 0xee, bytes);
    by_engine(barrier, bytes, [=] {
        for (int64_t i = 0; i < bytes / 16; ++i) {
            int64_t at = row + i / 8, first = column + i % 8 * 16;
            auto* place = static_cast<uint8_t*>(to) + i / 8 * 128 + ((i % 8 ^ i / 8 % 8) << 4);
            bool there = at < own.rows && first < own.columns;
            there ? std::memcpy(place, own.matrix + at * own.columns + first, 16) : std::memset(place, 0, 16);
        }
    });
}

template <int Registers>
void take_registers() {}
template <int Registers>
void give_registers() {}

inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::cluster.now->products.commit(); }

template <int Pending>
void wgmma_wait() {
    emulator::cluster.now->products.wait(Pending);
}

template <int Count>
void pin(int (&)[Count]) {}

// An address within the block's shared memory, in units of 16 bytes.
inline uint64_t rows_of_128(const void* pointer) { return shared_address(pointer) >> 4; }

template <int Threads>
void meet() {
    emulator::Meeting& some = emulator::cluster.block().some;
    some.expected = Threads;
    emulator::cluster.meet(some);
}

inline void cluster_meet() { emulator::cluster.meet(emulator::cluster.meeting); }

inline void await_kernel_before() {}
inline void start_kernel_behind() {}

}  // namespace aquatint
