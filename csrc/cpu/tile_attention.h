// y = softmax(scale q k^T) v for each head, as attention.h has it, by tiles: 32 queries by a block of keys at once, so that scores
// stay in the first-level cache. What was added up before is scaled down where a score turns up that is much larger, and only
// there (arXiv 2205.14135, equation 3). While tiles multiply one block, vectors make shares of the scores of another.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/activation.h"
#include "cpu/tile_heads.h"

namespace aquatint {

template <class V, int Parts>
struct AttentionBy {
    using Head = TileHeads<V, Parts>;
    using P = Panels<V>;
    using H = Halves<V>;
    using Number = typename H::Number;
    static constexpr int64_t kKeys = 128;                // of a block
    static constexpr int64_t kPitch = kKeys + V::width;  // rows a power of two apart would share few places in the cache
    static constexpr int64_t kQueries = 1024;            // a task where there are heads enough: a thread lays out keys once a head
    static constexpr float kSlack = 8.0f;                // powers of two by which a share may be larger than one

    static int64_t share(const AttentionCall& call) { return call.batch * call.heads < 8 ? kQueries / 4 : kQueries; }
    static int64_t shares(const AttentionCall& call) { return (call.queries + share(call) - 1) / share(call); }
    static int64_t tasks(const AttentionCall& call) { return call.batch * call.heads * shares(call); }

    static void work(const AttentionCall& call, Tasks& tasks) {
        TilesInUse in_use;
        Work work(call);
        int64_t ready = -1;
        for (int64_t task; (task = tasks.take()) >= 0;) {
            int64_t index = task / shares(call), image = index / call.heads, head = index % call.heads;
            if (index != ready) work.head = Head::of(call, image, head);
            ready = index;
            work.q = call.q.at(image, head);
            work.y = call.y + (image * call.queries * call.heads + head) * call.width;
            int64_t begin = task % shares(call) * share(call);
            attend(work, begin, std::min(begin + share(call), call.queries));
        }
    }

    // Of 32 queries: each one's largest score, or one that is not much smaller, and the sum of its shares in so many lanes.
    struct Totals {
        float largest[kPair];
        alignas(64) float sums[kPair * V::width];
    };

    // Queries and keys whose scores are multiplied in one go, and become shares row by row.
    struct Block {
        int64_t query, count, key, keys;
        bool opens, closes;   // the keys of its queries
        int64_t done, owed;   // rows that are shares; and how many more are due, in parts of a step
        int64_t steps;        // of tiles, in which they become so
        float factors[kPair];  // what was added up before is scaled by
        bool shrinks;          // is one of them not 1?
        float* scores;
        Number* shares;
        Totals* totals;
    };

    // What one thread has at hand: the blocks take turns, and so do the totals of their queries.
    struct Work {
        const AttentionCall& call;
        const int64_t deep, columns;
        Head head;
        const float* q;
        float *y, *sums;  // what is added up for 32 queries (32, columns)
        Number* queries;
        Block blocks[2];
        Totals totals[2];

        explicit Work(const AttentionCall& call)
            : call(call),
              deep(Head::deep(call)),
              columns(Head::columns(call)),
              sums(scratch<float, 1>(kPair * columns)),
              queries(scratch<Number, 0>(2 * deep * Head::kPart)) {
            for (int64_t i = 0; i < 2; ++i) {
                blocks[i].scores = scratch<float, 2>(2 * kPair * kPitch) + i * kPair * kPitch;
                blocks[i].shares = scratch<Number, 3>(2 * kPair * kKeys) + i * kPair * kKeys;
            }
        }
    };

    // Scores of a block, then values by the shares of the one before.
    static void attend(Work& work, int64_t begin, int64_t end) {
        int64_t wide = Head::wide(work.call), turn = 0, unit = 0;
        Block* before = nullptr;
        for (int64_t query = begin; query < end; query += kPair, ++unit)
            for (int64_t key = 0; key < wide; key += kKeys, turn ^= 1) {
                Block& block = work.blocks[turn];
                block.query = query, block.count = std::min(kPair, end - query);
                block.key = key, block.keys = std::min(kKeys, wide - key);
                block.opens = key == 0, block.closes = key + kKeys >= wide;
                block.done = block.owed = 0, block.shrinks = false;
                block.steps = block.keys / P::kColumns * (work.deep + work.columns / P::kColumns);
                block.totals = &work.totals[unit % 2];
                score(work, block, before);
                if (before) add(work, *before, &block);
                before = &block;
            }
        if (!before) return;
        soften_all(*before);
        add(work, *before, nullptr);
    }

    static void score(Work& work, Block& block, Block* before) {
        const AttentionCall& call = work.call;
        if (block.opens)
            Head::queries_of(call, work.q + block.query * call.q.row, block.count, call.scale * 1.44269504f, work.queries);  // for exp2
        TileRows from = {work.queries, 64, kTileBytes, work.deep * kTileBytes};
        auto meanwhile = [&] { soften(before); };
        for (int64_t key = 0; key < block.keys; key += P::kColumns) {
            const Number* panel = work.head.keys + (block.key + key) * work.deep * H::kDeep;
            tile_pairs(block.count, [&](auto Both, int64_t) {
                multiply_tiles<Number, Square<Both.value>>(from, panel, work.deep, block.scores + key, 4 * kPitch, meanwhile);
            });
        }
        if (before) soften_all(*before);
        int64_t known = std::min(block.keys, call.keys - block.key);
        for (int64_t row = 0; known < block.keys && row < block.count; ++row)
            std::fill(block.scores + row * kPitch + known, block.scores + row * kPitch + block.keys, -3e38f);
    }

    static void add(Work& work, Block& block, Block* next) {
        if (block.shrinks) shrink(work, block);
        TileRows from = {block.shares, 64, kTileBytes, block.keys * 2 * kTileRows};
        auto meanwhile = [&] { soften(next); };
        for (int64_t column = 0; column < work.columns; column += P::kColumns) {
            const Number* panel = work.head.values + column * Head::wide(work.call) + block.key * P::kColumns;
            auto multiply = [&](auto square) {
                multiply_tiles<Number, decltype(square)>(from, panel, block.keys / H::kDeep, work.sums + column, 4 * work.columns, meanwhile);
            };
            tile_pairs(block.count, [&](auto Both, int64_t) {
                bool beside = column + kTileRows < work.call.width;
                if (block.opens)
                    beside ? multiply(Square<Both.value>{}) : multiply(Square<Both.value, false>{});
                else
                    beside ? multiply(Square<Both.value, true, true>{}) : multiply(Square<Both.value, false, true>{});
            });
        }
        if (block.closes) close(work, block);
    }

    // As many rows as are due with each step of tiles.
    static void soften(Block* block) {
        if (!block || block->done == block->count) return;
        for (block->owed += kPair; block->owed >= block->steps && block->done < block->count; block->owed -= block->steps)
            soften_row(*block, block->done++);
    }

    static void soften_all(Block& block) {
        while (block.done < block.count) soften_row(block, block.done++);
    }

    // Scores as shares: powers of two of the distances from the largest one, as a row of tiles.
    [[gnu::noinline]] static void soften_row(Block& block, int64_t row) {
        const float* scores = block.scores + row * kPitch;
        auto lanes = V::load(scores);
        for (int64_t i = V::width; i < block.keys; i += V::width) lanes = V::max(lanes, V::load(scores + i));
        float centre = centred(block, row, V::largest(lanes)), *sums = block.totals->sums + row * V::width;
        auto sum = block.opens ? V::zero() : V::mul(V::load(sums), V::set(block.factors[row]));
        auto down = V::set(-centre);
        Number* to = block.shares + row / kTileRows * kTileRows * block.keys + row % kTileRows * H::kDeep;
        for (int64_t i = 0; i < block.keys; i += P::kColumns, to += Head::kPart) {
            auto low = Activations<V>::exp2_for_bfloat16(V::add(V::load(scores + i), down));
            auto high = Activations<V>::exp2_for_bfloat16(V::add(V::load(scores + i + V::width), down));
            V::store_halves(low, high, to);
            sum = V::add(sum, V::add(low, high));
        }
        V::store(sums, sum);
    }

    // What a row's shares are distances from, when the largest score of this block is known.
    static float centred(Block& block, int64_t row, float most) {
        float& largest = block.totals->largest[row];
        block.factors[row] = 1.0f;
        if (block.opens) return largest = most;
        if (!(most > largest + kSlack)) return largest;
        block.factors[row] = std::exp2(largest - most);
        block.shrinks = true;
        return largest = most;
    }

    static void shrink(Work& work, const Block& block) {
        for (int64_t row = 0; row < block.count; ++row) {
            if (block.factors[row] == 1.0f) continue;
            float* sums = work.sums + row * work.columns;
            for (int64_t i = 0; i < work.columns; i += V::width)
                V::store(sums + i, V::mul(V::load(sums + i), V::set(block.factors[row])));
        }
    }

    // All keys are in: what was added up, divided by the sum of all shares.
    static void close(Work& work, const Block& block) {
        int64_t width = work.call.width;
        for (int64_t row = 0; row < block.count; ++row) {
            float* y = work.y + (block.query + row) * work.call.heads * width;
            const float* sums = work.sums + row * work.columns;
            auto factor = V::set(1.0f / sum_of<V>(V::load(block.totals->sums + row * V::width)));
            for (int64_t i = 0; i < width; i += P::kColumns)
                store_some<V>(y + i, V::mul(V::load(sums + i), factor), V::mul(V::load(sums + i + V::width), factor), width - i);
        }
    }
};

// As exact as the call asks for.
template <class V>
struct TileAttention {
    static int64_t tasks(const AttentionCall& call) { return AttentionBy<V, 1>::tasks(call); }
    static void work(const AttentionCall& call, Tasks& tasks) {
        call.bfloat16 ? AttentionBy<V, 1>::work(call, tasks) : AttentionBy<V, 3>::work(call, tasks);
    }
};

}  // namespace aquatint
