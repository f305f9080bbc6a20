// Hopper's own instructions as functions: barriers in shared memory, the bulk copy engine, register hand-over.
// Semantics: PTX ISA 8.7, "Parallel Synchronization and Communication" and "Asynchronous copy".
#pragma once

#include <cstdint>

#include "cuda/ampere.h"

namespace aquatint {

// What the copy engine knows of a matrix: opaque here, made by the driver (cuTensorMapEncodeTiled).
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ inline void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Within the block: a wait for the cluster's memory would throw the first-level cache away each time.
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// Shared memory that was written by ordinary stores, for what the tensor cores and the copy engine read next.
__device__ inline void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

// A box of a matrix, from (column, row) on.
__device__ inline void box_copy(void* to, const TensorMap* map, int column, int row, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

template <int Registers>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most this many of the groups that were committed are still under way.
template <int Pending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Registers that an asynchronous product reads or writes: the compiler must not move them across this.
template <int Count>
__device__ inline void pin(int (&registers)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// A matrix in shared memory whose rows are 128 bytes, swizzled by 128 bytes, at a multiple of 1024.
__device__ inline uint64_t rows_of_128(const void* pointer) {
    constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = uint64_t(1024 >> 4) << 32, kUnused = uint64_t(1) << 16;
    return uint64_t((shared_address(pointer) & 0x3ffff) >> 4) | kUnused | kEightRows | kSwizzle128;
}

// So many of the block's threads come here, and then go on: whole warps, the same each time.
template <int Threads>
__device__ inline void meet() {
    asm volatile("bar.sync 1, %0;" ::"n"(Threads) : "memory");
}

// All blocks of a cluster come here; what they wrote to shared memory before is not promised to be seen.
__device__ inline void cluster_meet() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// With a kernel before this one still under way: what it writes is there behind `await_kernel_before`.
__device__ inline void await_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void start_kernel_behind() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace aquatint
