// A weight's panels as tiles read them: signed bytes. Those of 4 bits become bytes, times the whole number of their group where
// there is one, while tiles multiply by the panel before: for half a microsecond without work tiles fall asleep.
#pragma once

#include <algorithm>

#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"

namespace aquatint {

template <class V>
struct TileWeight {
    using P = Panels<V>;
    static constexpr int64_t kLines = kGroup / 4;  // of a group in a panel: four codes of each column
    static constexpr int64_t kPacked = kGroup * P::kColumns / 2, kBytes = kGroup * P::kColumns;  // of a group

    const ProductCall& call;
    int64_t lines;    // of what is asked for at once: a panel, or a pair of them
    uint8_t* room[2]; // what is held, and what comes next
    int64_t held = -1, coming = -1;
    int64_t done = 0;   // lines of what comes next
    int64_t share = 0;  // lines that are made with a step

    explicit TileWeight(const ProductCall& call) : call(call), lines(call.k / 4 * (call.paired ? 2 : 1)) {
        if (call.weight_bits == 8) return;
        room[0] = scratch<uint8_t, 7>(2 * lines * 4 * P::kColumns);
        room[1] = room[0] + lines * 4 * P::kColumns;
    }

    // Panel `panel` (the first of a pair). `next`, which is likely to be asked for then, is made ready in `steps` steps; or -1.
    const int8_t* at(int64_t panel, int64_t next, int64_t steps) {
        if (call.weight_bits == 8) return reinterpret_cast<const int8_t*>(call.weight + panel * P::kColumns * call.k);
        if (panel != held) {
            if (panel != coming) coming = panel, done = 0;
            some(lines);
            std::swap(room[0], room[1]);
            held = panel;
        }
        coming = next, done = 0;
        share = steps > 0 ? (lines + steps - 1) / steps : 0;
        return reinterpret_cast<const int8_t*>(room[0]);
    }

    // With a step of the tiles.
    void step() {
        if (coming >= 0 && done < lines) some(share);
    }

    // Up to `count` lines more.
    [[gnu::noinline]] void some(int64_t count) {
        for (int64_t end = std::min(lines, done + count); done < end;) {
            int64_t group = done / kLines, first = done % kLines, last = std::min(kLines, first + end - done);
            int64_t place = coming * call.k / kGroup + group;
            const int32_t* wholes = call.wholes ? call.wholes + place * P::kColumns : nullptr;
            V::template unpack_times<0>(call.weight + place * kPacked, room[1] + group * kBytes, wholes, first, last);
            done += last - first;
        }
    }
};

}  // namespace aquatint
