// All kernels, written once over a small vector type V and compiled once for each instruction set.
//
// V says how wide a register is (`width` floats), how many rows a tile has (`rows`), and how 4 * width products of bytes are
// added to a sum: `dot`, on sums that begin with `start` and end with `total`, over one group of 64; with `wide_sums` over many,
// in tiles of `whole_rows` rows where all of K is one sum.
#pragma once

#include "cpu/attention.h"
#include "cpu/ceiling.h"
#include "cpu/depthwise.h"
#include "cpu/float_product.h"
#include "cpu/group_affine.h"
#include "cpu/kernel_table.h"
#include "cpu/linear.h"
#include "cpu/moved_affine.h"
#include "cpu/product.h"
#include "cpu/quantize.h"
#include "cpu/recall.h"
#include "cpu/ways.h"
#include "cpu/winograd.h"

namespace aquatint {

template <class V>
struct Kernels {
    using Multiplication = typename Ways<V>::Multiplication;
    using Attending = typename Ways<V>::Attending;

    template <class Kernel, class Call>
    static void each(const Call& call, Tasks& tasks) {
        for (int64_t task; (task = tasks.take()) >= 0;) Kernel::run(call, task);
    }

    static int64_t product_tasks(const ProductCall& call) {
        return call.bits == 32 ? FloatProduct<V>::tasks(call) : Multiplication::tasks(call);
    }

    static void product(const ProductCall& call, Tasks& tasks) {
        return call.bits == 32 ? each<FloatProduct<V>>(call, tasks) : Multiplication::work(call, tasks);
    }

    static double ceiling(int kind, int64_t rounds) {
        if constexpr (V::has_tiles)
            if (kind == 2) return Multiplication::ceiling(rounds);
        return Ceiling<V>::run(kind, rounds);
    }

    static constexpr KernelTable table(const char* name) {
        using P = Panels<V>;
        return {name, P::columns, V::has_tiles, V::wide_sums, P::packed_bytes, P::pack, Quantize<V>::tasks, each<Quantize<V>>, product_tasks, product,
                GroupAffine<V>::tasks, each<GroupAffine<V>>, Attending::tasks, Attending::work,
                Linear<V>::tasks, Linear<V>::work, Depthwise<V>::tasks, each<Depthwise<V>>,
                Winograd<V>::tasks, Winograd<V>::work, MovedAffine<V>::tasks, each<MovedAffine<V>>, Recall<V>::tasks, each<Recall<V>>, ceiling};
    }
};

}  // namespace aquatint
