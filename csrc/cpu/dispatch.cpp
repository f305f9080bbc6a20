// The C interface: which instruction sets this machine has, and each kernel run over a thread pool that is lent to us.
#include <atomic>

#include "cpu/kernel_table.h"

namespace aquatint {
namespace {

// GOMP_parallel(function, argument, threads, flags) of the OpenMP runtime that torch has loaded: one pool in a process.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
Parallel lent_pool = nullptr;

struct Work {
    void (*run)(const void* call, int64_t first, int64_t last, const KernelTable*);
    const void* call;
    const KernelTable* table;
    int64_t count, share;
    std::atomic<int64_t> next{0};
};

// Shares are fixed by count and threads; who takes which does not matter, as no two write the same number.
void worker(void* argument) {
    auto& work = *static_cast<Work*>(argument);
    for (int64_t first; (first = work.next.fetch_add(work.share)) < work.count;)
        work.run(work.call, first, first + work.share < work.count ? first + work.share : work.count, work.table);
}

void spread(Work& work, int threads) {
    work.share = (work.count + threads - 1) / threads;
    if (threads > 1 && lent_pool && work.count > 1) {
        lent_pool(worker, &work, unsigned(threads), 0);
    } else {
        worker(&work);
    }
}

const KernelTable* known(int index) {
#ifdef AQUATINT_X86
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const bool has_vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (index == 2) return has_vnni ? avx512_kernels() : nullptr;
    if (index == 1) return has_avx2 ? avx2_kernels() : nullptr;
#endif
    return index == 0 ? plain_kernels() : nullptr;
}

}  // namespace
}  // namespace aquatint

#define AQ_EXPORT extern "C" __attribute__((visibility("default")))

using aquatint::KernelTable;
using aquatint::LinearCall;
using aquatint::QuantizeCall;

AQ_EXPORT void aq_lend_pool(void* gomp_parallel) {
    aquatint::lent_pool = reinterpret_cast<aquatint::Parallel>(gomp_parallel);
}

// Kernel tables by rising speed: 0 plain, 1 AVX2, 2 AVX-512 VNNI; null where this machine lacks the instructions.
AQ_EXPORT const KernelTable* aq_kernels(int index) { return aquatint::known(index); }

AQ_EXPORT const char* aq_name(const KernelTable* table) { return table->name; }

AQ_EXPORT int aq_columns(const KernelTable* table) { return table->columns(); }

AQ_EXPORT int64_t aq_packed_bytes(const KernelTable* table, int64_t n, int64_t k) { return table->packed_bytes(n, k); }

AQ_EXPORT void aq_pack_weight(const KernelTable* table, const uint8_t* codes, int64_t n, int64_t k, uint8_t* packed) {
    table->pack_weight(codes, n, k, packed);
}

AQ_EXPORT void aq_quantize(const KernelTable* table, const QuantizeCall* call, int threads) {
    auto run = [](const void* c, int64_t first, int64_t last, const KernelTable* t) {
        t->quantize(*static_cast<const QuantizeCall*>(c), first, last);
    };
    aquatint::Work work{run, call, table, call->m, 0};
    aquatint::spread(work, threads);
}

AQ_EXPORT void aq_linear(const KernelTable* table, const LinearCall* call, int threads) {
    auto prepare = [](const void* c, int64_t first, int64_t last, const KernelTable* t) {
        t->prepare(*static_cast<const LinearCall*>(c), first, last);
    };
    auto run = [](const void* c, int64_t first, int64_t last, const KernelTable* t) {
        t->linear(*static_cast<const LinearCall*>(c), first, last);
    };
    aquatint::Work rows{prepare, call, table, call->m, 0};
    aquatint::spread(rows, threads);
    aquatint::Work panels{run, call, table, table->panels(call->n), 0};
    aquatint::spread(panels, threads);
}
