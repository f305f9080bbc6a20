// How a product is cut into tasks: a block of rows by some panels of its weight, so few that no thread waits long for the last one.
#pragma once

#include <algorithm>

#include "cpu/kernel_table.h"
#include "cpu/tiles.h"

namespace aquatint {

struct Cut {
    static constexpr int64_t kFew = 8, kMany = 512;  // panels, and rows, where a convolution's rows are made ready once
    static constexpr int64_t kParts = 8, kRows = 256;  // blocks that such rows are cut into at least, and rows of one at most

    int64_t m, panels;     // of the product
    int64_t block, share;  // rows and panels of a task

    // Blocks are `most` rows at most, whole tiles, and of one size but for the last; tasks are of `smallest` multiply-adds at least.
    Cut(const ProductCall& call, int64_t columns, int64_t most, int64_t tile, int64_t smallest)
        : m(call.m), panels((call.n + columns - 1) / columns) {
        // Making rows ready, which each thread does that has a part of them, is much of such a convolution's work.
        bool by_rows = call.window && panels <= kFew && m >= kMany;
        if (by_rows) most = std::min({most, kRows, m / kParts});
        block = std::max(tile, (even_block(m, most) + tile - 1) / tile * tile);
        share = by_rows ? panels : std::clamp<int64_t>(smallest / (block * call.k * columns), 1, panels);
    }

    int64_t shares() const { return (panels + share - 1) / share; }
    int64_t tasks() const { return (m + block - 1) / block * shares(); }

    // ready(first row, rows) once for each block that this thread gets tasks of; body(first row, panel, the one that is likely to
    // come next, or -1).
    template <class Ready, class Body>
    void work(Tasks& tasks, Ready&& ready, Body&& body) const {
        int64_t done = -1;
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t first = task / shares() * block, begin = task % shares() * share;
            if (first != done) ready(first, std::min(block, m - first));
            done = first;
            int64_t end = std::min(begin + share, panels), likely = tasks.likely();
            int64_t behind = likely < 0 ? -1 : likely % shares() * share;
            for (int64_t panel = begin; panel < end; ++panel) body(first, panel, panel + 1 < end ? panel + 1 : behind);
        }
    }
};

}  // namespace aquatint
