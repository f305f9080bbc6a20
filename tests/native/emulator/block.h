// CUDA's threads on a CPU: a cluster of blocks as fibers that take turns where they wait for each other.
//
// It is stricter than a GPU. Which warp goes on is drawn at random and it goes as far as it can, so that a meeting that is
// missing shows; copies that nobody has waited for have not happened, and have spoilt what they will write to; a wait that can
// never end is an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ucontext.h>

struct Index {
    uint32_t x = 0, y = 0, z = 0;
};

inline Index threadIdx, blockIdx, gridDim, blockDim;

namespace emulator {

inline std::string failure;

constexpr int kStack = 128 * 1024, kMostOfALane = 64, kGuard = 4096;

// So many come, and then all go on.
struct Meeting {
    int expected = 0, arrived = 0;
    uint64_t generation = 0;

    void leave() {
        --expected;
        if (expected > 0 && arrived == expected) open();
    }
    void open() { arrived = 0, ++generation; }
};

// What a thread has begun and not waited for: groups of it, the oldest first, each done when it must be and not before.
struct Begun {
    using Group = std::vector<std::function<void()>>;
    Group open;
    std::deque<Group> committed;

    void commit() { committed.push_back(std::move(open)), open.clear(); }
    void wait(size_t pending) {
        for (; committed.size() > pending; committed.pop_front())
            for (const auto& finish : committed.front()) finish();
    }
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    int block = 0, thread = 0;
    bool done = false;
    std::function<bool()> ready;  // empty: at once
    Begun copies, products;
};

struct Warp {
    Meeting meeting;
    alignas(16) char lanes[2][32 * kMostOfALane];
};

struct Block {
    Meeting meeting, some;  // of all threads, and of those that meet by themselves
    std::vector<Warp> warps;
    std::vector<uint8_t> memory;
    uint8_t* shared = nullptr;
};

struct Cluster {
    std::vector<Fiber> fibers;
    std::vector<Block> blocks;
    Meeting meeting;
    std::vector<std::function<void()>> engine;  // copies that end by themselves, one of them now and then
    ucontext_t scheduler;
    Fiber* now = nullptr;
    std::function<void()> kernel;

    Block& block() { return blocks[now->block]; }
    Warp& warp() { return block().warps[now->thread / 32]; }

    void wait(std::function<bool()> until) {
        if (until()) return;
        now->ready = std::move(until);
        swapcontext(&now->context, &scheduler);
    }

    void meet(Meeting& meeting) {
        uint64_t generation = meeting.generation;
        if (++meeting.arrived == meeting.expected) meeting.open();
        wait([&meeting, generation] { return meeting.generation != generation; });
    }

    static void enter();

    void run(int size, int threads, int shared, int first_block, std::mt19937& draw) {
        blocks.clear(), blocks.resize(size), engine.clear();
        fibers.resize(size * threads);
        meeting = {size * threads};
        for (Block& block : blocks) {
            block.meeting.expected = threads;
            block.warps.resize((threads + 31) / 32);
            block.memory.assign(shared + 1024 + kGuard, 0xcd);
            block.shared = block.memory.data() + (-reinterpret_cast<uintptr_t>(block.memory.data()) & 1023);
        }
        for (int i = 0; i < size * threads; ++i) {
            Fiber& fiber = fibers[i];
            fiber.block = i / threads, fiber.thread = i % threads, fiber.done = false, fiber.ready = nullptr;
            fiber.copies = {}, fiber.products = {};
            ++blocks[fiber.block].warps[fiber.thread / 32].meeting.expected;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = kStack;
            fiber.context.uc_link = &scheduler;
            makecontext(&fiber.context, &Cluster::enter, 0);
        }
        schedule(first_block, threads, draw);
        if (!failure.empty()) throw std::runtime_error(failure);
        for (Block& block : blocks)
            for (int i = 0; i < kGuard; ++i)
                if (block.shared[shared + i] != 0xcd) throw std::runtime_error("a block wrote behind its shared memory");
    }

    // Until no warp can go on.
    void schedule(int first_block, int threads, std::mt19937& draw) {
        int warps = (threads + 31) / 32, all = warps * int(blocks.size());
        std::vector<int> order(all);
        for (int i = 0; i < all; ++i) order[i] = i;
        for (bool moved = true; moved;) {
            moved = false;
            std::shuffle(order.begin(), order.end(), draw);
            if (!engine.empty() && draw() % 4 == 0) moved = end_a_copy(draw);
            for (int i = 0; i < all && !moved; ++i) moved = go_on(order[i] / warps, order[i] % warps, threads, first_block);
            if (!moved && !engine.empty()) moved = end_a_copy(draw);
        }
        for (const Fiber& fiber : fibers)
            if (!fiber.done)
                throw std::runtime_error("thread " + std::to_string(fiber.thread) + " of block " +
                                         std::to_string(first_block + fiber.block) + " waits for ever");
    }

    bool end_a_copy(std::mt19937& draw) {
        std::swap(engine[draw() % engine.size()], engine.back());
        auto finish = std::move(engine.back());
        engine.pop_back();
        finish();
        return true;
    }

    // A warp as far as it can go.
    bool go_on(int block, int warp, int threads, int first_block) {
        bool moved = false;
        for (bool again = true; again;) {
            again = false;
            for (int thread = warp * 32; thread < std::min(threads, warp * 32 + 32); ++thread) {
                Fiber& fiber = fibers[block * threads + thread];
                if (fiber.done || (fiber.ready && !fiber.ready())) continue;
                fiber.ready = nullptr, now = &fiber, again = moved = true;
                threadIdx.x = thread, blockIdx.x = first_block + block;
                swapcontext(&scheduler, &fiber.context);
            }
        }
        return moved;
    }
};

inline Cluster cluster;

inline void Cluster::enter() {
    try {
        cluster.kernel();
    } catch (const std::exception& error) {  // it can't leave a fiber
        failure = error.what();
    }
    Fiber& fiber = *cluster.now;
    fiber.done = true;
    cluster.warp().meeting.leave(), cluster.block().meeting.leave(), cluster.meeting.leave();
}

// What each lane of the warp brings to a meeting, to be read until the one after the next.
template <class T>
const T* all_lanes(const T& mine) {
    static_assert(sizeof(T) <= kMostOfALane && std::is_trivially_copyable_v<T>);
    Warp& warp = cluster.warp();
    auto* lanes = reinterpret_cast<T*>(warp.lanes[warp.meeting.generation % 2]);
    std::memcpy(lanes + threadIdx.x % 32, &mine, sizeof mine);
    cluster.meet(warp.meeting);
    return lanes;
}

template <class... Arguments>
std::function<void()> bound(void (*kernel)(Arguments...), void** arguments) {
    return [kernel, arguments] {
        int i = 0;
        std::tuple<std::decay_t<Arguments>...> values{*static_cast<std::decay_t<Arguments>*>(arguments[i++])...};
        std::apply(kernel, values);
    };
}

// Null, or what went wrong.
inline const char* launch(const std::function<void()>& kernel, int grid, int block, int shared, int size, unsigned seed) {
    failure.clear();
    try {
        std::mt19937 draw(seed);
        cluster.kernel = kernel;
        gridDim.x = grid, blockDim.x = block;
        for (int first = 0; first < grid; first += size) cluster.run(size, block, shared, first, draw);
        return nullptr;
    } catch (const std::exception& error) {
        failure = error.what();
        return failure.c_str();
    }
}

}  // namespace emulator

// A table of a file's kernels: AQ_KERNELS({"name", AQ_KERNEL(name)}, ..).
#define AQ_KERNEL(name) {#name, [](void** arguments) { return emulator::bound(name, arguments); }}
#define AQ_KERNELS(...)                                                                                                      \
    extern "C" const char* emulate(const char* name, int grid, int block, int shared, int size, unsigned seed,               \
                                   void** arguments) {                                                                       \
        static const std::vector<std::pair<std::string, std::function<void()> (*)(void**)>> kernels = {__VA_ARGS__};         \
        for (const auto& [known, bind] : kernels)                                                                            \
            if (known == name) return emulator::launch(bind(arguments), grid, block, shared, size, seed);                    \
        return "there is no such kernel";                                                                                    \
    }
