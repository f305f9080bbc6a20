// The low-rank branch in bytes, where products of them go into 32 bits: half of the work of words. What is stored of a branch is
// bytes times a power of two for each rank, so its weights are exact. The way down reads codes of 8 bits, of a product that reads
// such codes the very same. What lies between the two ways is rounded to 8 bits for each row, its leading ranks, which carry most,
// to 15: two digits, which are multiplied one after the other.
#pragma once

#include <algorithm>

#include "common/codec.h"
#include "cpu/kernel_table.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace aquatint {

template <class V>
struct Bytes {
    using P = Panels<V>;
    using Float = typename V::Float;
    using Sum = typename V::Sum;
    static constexpr bool kUp = V::wide_sums && !V::has_tiles;  // where the way up is bytes too; by tiles it is not: tile_bytes.h
    static constexpr int64_t kFour = 4;     // neighbours that are multiplied at once
    static constexpr int64_t kLeading = 8;  // ranks with two digits
    static constexpr float kDigit = 128.0f;

    // Of a row of h: as many first digits of the leading ranks as there are, then the second digits, and the only ones of others.
    static int64_t deep(int64_t rank) { return (rank + kFour - 1) / kFour * kFour; }
    static int64_t leading(int64_t rank) { return std::min(kLeading, deep(rank)); }
    static int64_t stride(int64_t rank) { return leading(rank) + deep(rank) + V::width; }

    // h of `count` rows of codes with a scale each, from row `first` on.
    static void project(const QuantizeCall& call, const int8_t* codes, const float* scales, int64_t first, int64_t count) {
        auto* starts = scratch<int32_t, 2>(count);
        for (int64_t i = 0; i < count; ++i) {
            starts[i] = 0;
            for (int64_t k = 0; k < call.k; k += kGroup) starts[i] += 16 * V::start(codes + i * call.k + k);
        }
        for (int64_t panel = 0; panel < P::count(call.rank); ++panel)
            tiles<V::whole_rows>(count, [&](auto R, int64_t row) {
                project<R.value>(call, codes + row * call.k, starts + row, scales + row, panel, first + row);
            });
    }

    // R rows of h, one panel of ranks wide.
    template <int R>
    static void project(const QuantizeCall& call, const int8_t* codes, const int32_t* starts, const float* scales, int64_t panel,
                        int64_t row) {
        Sum low[R], high[R];
        int64_t column = panel * P::kColumns;
        unroll<R>([&](auto r) { low[r] = high[r] = V::start_sum(starts[r]); });
        const auto* line = static_cast<const uint8_t*>(call.down) + column * call.k;
        for (int64_t i = 0; i < call.k; i += kFour, line += kFour * P::kColumns) add<R>(codes + i, call.k, line, low, high);
        auto s_low = V::load(call.down_scales + column), s_high = V::load(call.down_scales + column + V::width);
        unroll<R>([&](auto r) {
            auto scale = V::set(scales[r]);
            auto a = V::mul(V::mul(V::total(low[r]), scale), s_low), b = V::mul(V::mul(V::total(high[r]), scale), s_high);
            store_some<V>(call.h + (row + r) * call.rank + column, a, b, call.rank - column);
        });
    }

    // Adds the products of four neighbours in each of R rows, `apart` from each other, with a line of a panel.
    template <int R>
    [[gnu::always_inline]] static void add(const int8_t* codes, int64_t apart, const uint8_t* line, Sum (&low)[R], Sum (&high)[R]) {
        auto w_low = V::load_bytes(line), w_high = V::load_bytes(line + kFour * V::width);
        unroll<R>([&](auto r) {
            auto x = V::set_four(codes + r * apart);
            low[r] = V::dot(low[r], w_low, x);
            high[r] = V::dot(high[r], w_high, x);
        });
    }

    // A row of h as digits, each rank times its power of two. Returns their scale and where sums over them start, to take back the
    // 128 that is on top of each weight, before the first digits are worth 128 times as much.
    static float put(const float* h, const float* powers, int64_t rank, int8_t* codes, int32_t& start) {
        int64_t lead = leading(rank), first = std::min(lead, rank);
        auto part = [&](int64_t i, int64_t count) { return V::mul(V::load_first(h + i, count), V::load_first(powers + i, count)); };
        auto each = [&](auto&& body) {
            for (int64_t i = first; i < rank; i += V::width) body(i, part(i, std::min<int64_t>(V::width, rank - i)));
        };
        auto front = part(0, first);
        auto largest = V::larger_magnitude(V::zero_int(), V::mul(front, V::set(1.0f / kDigit)));
        each([&](int64_t, Float x) { largest = V::larger_magnitude(largest, x); });
        float scale = group_scale(float_of(V::largest_lane(largest)), 127.0f);
        auto inverse = V::set(1.0f / scale);
        front = V::mul(front, inverse);
        auto digit = V::round(V::mul(front, V::set(1.0f / kDigit)));
        V::store_codes(codes, digit);
        V::store_codes(codes + lead, V::fma(digit, V::set(-kDigit), front));
        each([&](int64_t i, Float x) { V::store_codes(codes + lead + i, V::mul(x, inverse)); });
        start = 0;
        for (int64_t i = 0; i < lead; ++i) start -= 128 * codes[i];
        for (int64_t i = lead; i < lead + deep(rank); ++i) start -= codes[i];
        return scale;
    }

    // R rows of digits times a panel of the way up, without the scale of each row.
    template <int R>
    [[gnu::always_inline]] static void multiply(const int8_t* h, const int32_t* starts, int64_t rank, const uint8_t* panel,
                                                Float (&low)[R], Float (&high)[R]) {
        Sum a[R], b[R];
        unroll<R>([&](auto r) { a[r] = b[r] = V::start_sum(starts[r]); });
        int64_t apart = stride(rank), lead = leading(rank), all = lead + deep(rank);  // one loop: of two g++ makes memory of all sums
        const uint8_t* lines = panel;
        for (int64_t i = 0; i < all; i += kFour, lines += kFour * P::kColumns) {
            if (i == lead) {
                unroll<R>([&](auto r) { a[r] = V::times_128(a[r]), b[r] = V::times_128(b[r]); });
                lines = panel;
            }
            add<R>(h + i, apart, lines, a, b);
        }
        unroll<R>([&](auto r) { low[r] = V::total(a[r]), high[r] = V::total(b[r]); });
    }
};

}  // namespace aquatint
