// All kernels, written once over a small vector type V and compiled once for each instruction set.
//
// V says how wide a register is (`width` floats), how many rows a tile has (`rows`), and how 4 * width products of bytes are
// added to a sum: `dot`, on sums that begin with `start` and end with `total`, over one group of 64.
#pragma once

#include "cpu/attention.h"
#include "cpu/ceiling.h"
#include "cpu/few_rows.h"
#include "cpu/float_product.h"
#include "cpu/group_affine.h"
#include "cpu/kernel_table.h"
#include "cpu/product.h"
#include "cpu/quantize.h"

namespace aquatint {

template <class V>
struct Kernels {
    static int64_t product_tasks(const ProductCall& call, int threads) {
        return call.bits == 32 ? FloatProduct<V>::tasks(call, threads) : Product<V>::tasks(call, threads);
    }

    static void product(const ProductCall& call, int64_t task, int64_t tasks) {
        return call.bits == 32 ? FloatProduct<V>::run(call, task, tasks) : Product<V>::run(call, task, tasks);
    }

    static constexpr KernelTable table(const char* name) {
        using P = Panels<V>;
        return {name, P::columns, P::packed_bytes, P::pack, Quantize<V>::tasks, Quantize<V>::run, product_tasks, product,
                GroupAffine<V>::tasks, GroupAffine<V>::run, Attention<V>::tasks, Attention<V>::run,
                FewRows<V>::tasks, FewRows<V>::run, Ceiling<V>::run};
    }
};

}  // namespace aquatint
