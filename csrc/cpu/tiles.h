// Loops whose bounds are constants, so that the small arrays in them become registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace aquatint {

// The loop written out.
template <class F, int... I>
[[gnu::always_inline]] inline void unroll(std::integer_sequence<int, I...>, F&& body) {
    (body(std::integral_constant<int, I>{}), ...);
}

template <int N, class F>
[[gnu::always_inline]] inline void unroll(F&& body) {
    unroll(std::make_integer_sequence<int, N>{}, body);
}

// body(R, row) for each tile of R rows; what is left at the end is a smaller tile.
template <int R, class F>
void tiles(int64_t count, F&& body, int64_t row = 0) {
    for (; row + R <= count; row += R) body(std::integral_constant<int, R>{}, row);
    if constexpr (R > 1)
        if (row < count) tiles<R - 1>(count, body, row);
}

// How many of `count` make a block of at most `most`: blocks of one size but for the last, so that none is left with a few. As many
// blocks for each thread where there are `least` for each: what it reads is then what it has written in the call before, as another
// core's numbers can be as far as memory.
inline int64_t even_block(int64_t count, int64_t most, int64_t threads = 1, int64_t least = 1) {
    int64_t blocks = std::max<int64_t>(1, (count + most - 1) / most);
    if (count >= least * threads) blocks = (blocks + threads - 1) / threads * threads;
    return std::max<int64_t>(1, (count + blocks - 1) / blocks);
}

// N numbers added up, the second half to the first until one is left.
template <int N>
[[gnu::always_inline]] inline float sum_by_halves(float* numbers) {
    if constexpr (N == 1) return numbers[0];
    for (int i = 0; i < N / 2; ++i) numbers[i] += numbers[N / 2 + i];
    return sum_by_halves<N / 2>(numbers);
}

// The lanes of a register added up.
template <class V>
float sum_of(typename V::Float a) {
    float lanes[V::width];
    V::store(lanes, a);
    return sum_by_halves<V::width>(lanes);
}

// R rows of a, `a_row` numbers apart, times a panel b of C registers a row: the sums over `depth`, C for each row.
template <class V, int R, int C>
[[gnu::always_inline]] inline void multiply(const float* a, int64_t a_row, const float* b, int64_t depth,
                                            typename V::Float (&sums)[R * C]) {
    unroll<R * C>([&](auto i) { sums[i] = V::zero(); });
    for (int64_t i = 0; i < depth; ++i, b += C * V::width) {
        typename V::Float line[C];
        unroll<C>([&](auto c) { line[c] = V::load(b + c * V::width); });
        unroll<R>([&](auto r) {
            auto value = V::set(a[r * a_row + i]);
            unroll<C>([&](auto c) { sums[r * C + c] = V::fma(value, line[c], sums[r * C + c]); });
        });
    }
}

// A tile's sums in float: in registers where there are enough beside those in integers, else in memory, which g++ has to be told.
template <class V, int R, bool InRegisters = V::many_registers>
struct FloatSums {
    typename V::Float low[R], high[R];

    FloatSums() {
        unroll<R>([&](auto r) { low[r] = high[r] = V::zero(); });
    }
    void settle() {}
    void add(int r, typename V::Float a, typename V::Float b, typename V::Float c, typename V::Float d) {
        low[r] = V::fma(a, b, low[r]);
        high[r] = V::fma(c, d, high[r]);
    }
    void give(typename V::Float (&to_low)[R], typename V::Float (&to_high)[R]) const {
        std::copy(low, low + R, to_low);
        std::copy(high, high + R, to_high);
    }
};

template <class V, int R>
struct FloatSums<V, R, false> {
    alignas(64) float low[R * V::width] = {}, high[R * V::width] = {};

    void settle() { asm volatile("" : : "r"(low), "r"(high) : "memory"); }
    void add(int r, typename V::Float a, typename V::Float b, typename V::Float c, typename V::Float d) {
        V::store(low + r * V::width, V::fma(a, b, V::load(low + r * V::width)));
        V::store(high + r * V::width, V::fma(c, d, V::load(high + r * V::width)));
    }
    void give(typename V::Float (&to_low)[R], typename V::Float (&to_high)[R]) const {
        unroll<R>([&](auto r) {
            to_low[r] = V::load(low + r * V::width);
            to_high[r] = V::load(high + r * V::width);
        });
    }
};

// The first `count` numbers of a register, for instructions without masks; the others are zero.
template <class V>
typename V::Float load_one_by_one(const float* p, int64_t count) {
    float line[V::width] = {};
    for (int64_t i = 0; i < count; ++i) line[i] = p[i];
    return V::load(line);
}

template <class V>
void store_one_by_one(float* p, typename V::Float a, int64_t count) {
    float line[V::width];
    V::store(line, a);
    for (int64_t i = 0; i < count; ++i) p[i] = line[i];
}

// The first `count` of the columns in two registers.
template <class V>
void store_some(float* p, typename V::Float low, typename V::Float high, int64_t count) {
    if (count >= 2 * V::width) {
        V::store(p, low);
        V::store(p + V::width, high);
        return;
    }
    V::store_first(p, low, std::min<int64_t>(count, V::width));
    if (count > V::width) V::store_first(p + V::width, high, count - V::width);
}

// The first `count` numbers of two registers; the others are zero.
template <class V>
void load_some(const float* p, int64_t count, typename V::Float& low, typename V::Float& high) {
    if (count >= 2 * V::width) {
        low = V::load(p);
        high = V::load(p + V::width);
        return;
    }
    low = V::load_first(p, std::min<int64_t>(count, V::width));
    high = count > V::width ? V::load_first(p + V::width, count - V::width) : V::zero();
}

}  // namespace aquatint
