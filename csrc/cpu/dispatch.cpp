// The C interface: which instruction sets this machine has, and each kernel run over a thread pool that is lent to us, or our own.
#include "cpu/crew.h"
#include "cpu/kernel_table.h"

#ifdef AQUATINT_AMX
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace aquatint {
namespace {

// GOMP_parallel(function, argument, threads, flags) and omp_get_thread_num() of the OpenMP runtime that torch has loaded: one pool
// in a process.
struct Pool {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*thread)();
};
std::atomic<const Pool*> lent_pool{nullptr};

template <class Call>
struct Work {
    void (*run)(const Call&, Tasks&);
    const Call& call;
    Pile pile;
    const Pool* lent;
};

template <class Call>
void share(void* argument, int thread) {
    auto& work = *static_cast<Work<Call>*>(argument);
    Tasks tasks(work.pile, thread);
    work.run(work.call, tasks);
}

template <class Call>
void lent_share(void* argument) {
    share<Call>(argument, static_cast<Work<Call>*>(argument)->lent->thread());
}

template <class Call>
void spread(void (*run)(const Call&, Tasks&), const Call& call, int64_t tasks, int threads) {
    bool many = threads > 1 && tasks > 1;
    Work<Call> work{run, call, Pile(tasks, many ? threads : 1), lent_pool};
    if (!many) return share<Call>(&work, 0);
    if (!work.lent) return Crew::here().run(share<Call>, &work, threads);
    work.lent->parallel(lent_share<Call>, &work, unsigned(threads), 0);
}

#ifdef AQUATINT_AMX
// AMX-TILE, AMX-INT8, AMX-BF16 and AVX512-BF16, an operating system that keeps tiles, and its permission to use them.
bool has_tiles() {
    constexpr unsigned kTiles = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) != kTiles) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return false;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & (3u << 17)) != 3u << 17) return false;
#ifdef __linux__
    constexpr int kAskForTiles = 0x1023, kTileData = 18;  // arch_prctl's ARCH_REQ_XCOMP_PERM, and what it is asked for
    return syscall(SYS_arch_prctl, kAskForTiles, kTileData) == 0;
#else
    return false;
#endif
}
#endif

const KernelTable* known(int index) {
#ifdef AQUATINT_X86
    static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    static const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
#ifdef AQUATINT_AMX
    static const bool amx = vnni && has_tiles();
    if (index == 4) return amx ? avx512_amx_kernels() : nullptr;
#endif
    if (index == 3) return vnni ? avx512_vnni_kernels() : nullptr;
    if (index == 2) return avx512 ? avx512_kernels() : nullptr;
    if (index == 1) return avx2 ? avx2_kernels() : nullptr;
#endif
    return index == 0 ? plain_kernels() : nullptr;
}

}  // namespace
}  // namespace aquatint

#define AQ_EXPORT extern "C" __attribute__((visibility("default")))

using aquatint::AttentionCall;
using aquatint::GroupAffineCall;
using aquatint::KernelTable;
using aquatint::LinearCall;
using aquatint::MovedAffineCall;
using aquatint::RecallCall;
using aquatint::ProductCall;
using aquatint::QuantizeCall;

// Once in a process; kernels of other threads may be running.
AQ_EXPORT void aq_lend_pool(void* gomp_parallel, void* omp_get_thread_num) {
    using aquatint::Pool;
    static const Pool pool{reinterpret_cast<decltype(Pool::parallel)>(gomp_parallel), reinterpret_cast<decltype(Pool::thread)>(omp_get_thread_num)};
    aquatint::lent_pool = &pool;
}

// Kernel tables by rising speed: 0 plain, 1 AVX2, 2 AVX-512, 3 AVX-512 VNNI, 4 AMX; null where this machine lacks the instructions.
AQ_EXPORT const KernelTable* aq_kernels(int index) { return aquatint::known(index); }

AQ_EXPORT const char* aq_name(const KernelTable* table) { return table->name; }

AQ_EXPORT int64_t aq_columns(const KernelTable* table) { return table->columns(); }

AQ_EXPORT int aq_tiles(const KernelTable* table) { return table->tiles; }

AQ_EXPORT int aq_wide_sums(const KernelTable* table) { return table->wide_sums; }

AQ_EXPORT int64_t aq_packed_bytes(const KernelTable* table, int bits, int64_t n, int64_t k) {
    return table->packed_bytes(bits, n, k);
}

AQ_EXPORT void aq_pack_weight(const KernelTable* table, int bits, const void* codes, int64_t n, int64_t k, uint8_t* packed) {
    table->pack_weight(bits, codes, n, k, packed);
}

AQ_EXPORT void aq_quantize(const KernelTable* table, const QuantizeCall* call, int threads) {
    QuantizeCall shared = *call;
    shared.threads = threads;
    aquatint::spread(table->quantize, shared, table->quantize_tasks(shared), threads);
}

AQ_EXPORT void aq_product(const KernelTable* table, const ProductCall* call, int threads) {
    ProductCall shared = *call;
    shared.threads = threads;
    aquatint::spread(table->product, shared, table->product_tasks(shared), threads);
}

AQ_EXPORT void aq_group_affine(const KernelTable* table, const GroupAffineCall* call, int threads) {
    aquatint::spread(table->group_affine, *call, table->group_affine_tasks(*call), threads);
}

AQ_EXPORT void aq_attention(const KernelTable* table, const AttentionCall* call, int threads) {
    aquatint::spread(table->attention, *call, table->attention_tasks(*call), threads);
}

AQ_EXPORT void aq_linear(const KernelTable* table, const LinearCall* call, int threads) {
    aquatint::spread(table->linear, *call, table->linear_tasks(*call), threads);
}

AQ_EXPORT void aq_depthwise(const KernelTable* table, const LinearCall* call, int threads) {
    aquatint::spread(table->depthwise, *call, table->depthwise_tasks(*call), threads);
}

AQ_EXPORT void aq_winograd(const KernelTable* table, const LinearCall* call, int threads) {
    aquatint::spread(table->winograd, *call, table->winograd_tasks(*call), threads);
}

AQ_EXPORT void aq_moved_affine(const KernelTable* table, const MovedAffineCall* call, int threads) {
    aquatint::spread(table->moved_affine, *call, table->moved_affine_tasks(*call), threads);
}

AQ_EXPORT void aq_recall(const KernelTable* table, const RecallCall* call, int threads) {
    aquatint::spread(table->recall, *call, table->recall_tasks(*call), threads);
}

// Multiply-adds done; see ceiling.h.
AQ_EXPORT double aq_ceiling(const KernelTable* table, int kind, int64_t rounds) { return table->ceiling(kind, rounds); }
