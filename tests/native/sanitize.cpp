// Every kernel of every instruction set on buffers of exactly the size that it may touch, with hostile numbers in them.
// Built with AddressSanitizer and UndefinedBehaviorSanitizer by tests/runtime/test_sanitizers.py. Prints what it ran.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "cpu/kernel_table.h"

using namespace aquatint;
extern "C" const KernelTable* aq_kernels(int index);
extern "C" void aq_quantize(const KernelTable*, const QuantizeCall*, int threads);
extern "C" void aq_product(const KernelTable*, const ProductCall*, int threads);
extern "C" void aq_attention(const KernelTable*, const AttentionCall*, int threads);
extern "C" void aq_linear(const KernelTable*, const LinearCall*, int threads);
extern "C" void aq_group_affine(const KernelTable*, const GroupAffineCall*, int threads);
extern "C" void aq_depthwise(const KernelTable*, const LinearCall*, int threads);
extern "C" void aq_winograd(const KernelTable*, const LinearCall*, int threads);
extern "C" void aq_moved_affine(const KernelTable*, const MovedAffineCall*, int threads);
extern "C" void aq_recall(const KernelTable*, const RecallCall*, int threads);

namespace {

std::mt19937 engine(1);

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }

// Mostly ordinary numbers; now and then none, a huge one, or no number at all.
std::vector<float> floats(int64_t count) {
    std::vector<float> values(count);
    std::normal_distribution<float> normal;
    for (auto& value : values) value = normal(engine);
    const float hostile[] = {0.0f, -0.0f, 3e38f, -3e38f, 1e-40f, std::numeric_limits<float>::infinity(), std::nanf("")};
    for (float value : hostile)
        if (count && draw(0, 3) == 0) values[draw(0, count - 1)] = value;
    return values;
}

template <class T>
std::vector<T> bytes(int64_t count) {
    std::vector<T> values(count);
    for (auto& value : values) value = T(draw(0, 255));
    return values;
}

// Integers of 13 bits, as the branch is stored.
std::vector<int16_t> words(int64_t count) {
    std::vector<int16_t> values(count);
    for (auto& value : values) value = int16_t(draw(-4095, 4095));
    return values;
}

// For half of all windows: which pixel each output sees, through each tap.
std::vector<int32_t> places(Window& window) {
    std::vector<int32_t> table(window.outputs() * window.seen());
    for (auto& place : table) place = int32_t(draw(-1, window.height * window.width - 1));
    if (draw(0, 1)) window.places = table.data();
    return table;
}

int64_t panels_of(const KernelTable* table, int64_t n) { return (n + table->columns() - 1) / table->columns() * table->columns(); }

void quantize(const KernelTable* table) {
    int64_t sets = draw(1, 3), rows = draw(1, 40), k = 64 * draw(1, 6), rank = draw(0, 1) ? draw(1, 70) : 0, m = sets * rows;
    int bits = draw(0, 1) ? 8 : 4;
    int64_t group = bits == 4 ? 64 : k;
    auto x = floats(m * k), smooth = floats(k), down_scales = floats(panels_of(table, rank)), gain = floats(sets * k);
    bool in_bytes = table->wide_sums && draw(0, 1);
    auto down = words(in_bytes ? 0 : panels_of(table, rank) * k);
    auto down_bytes = bytes<uint8_t>(in_bytes ? panels_of(table, rank) * k : 0);
    const void* way_down = in_bytes ? static_cast<const void*>(down_bytes.data()) : down.data();
    std::vector<int8_t> codes(m * k * bits / 8);
    std::vector<float> scales(m * k / group), h(m * rank);
    bool affine = draw(0, 1);
    Spread vectors{affine ? gain.data() : nullptr, sets > 1 ? rows : 0, k};
    QuantizeCall call{x.data(), draw(0, 1) ? smooth.data() : nullptr, rank ? way_down : nullptr, down_scales.data(), vectors, vectors,
                      m, k, rank, group,
                      draw(0, 1) ? 1e-6f : -1.0f, int32_t(draw(0, 3)), bits, in_bytes ? 8 : 16, codes.data(), scales.data(),
                      rank ? h.data() : nullptr};
    aq_quantize(table, &call, 1);
}

void product(const KernelTable* table) {
    static const int kinds[] = {4, 8, 32};
    int bits = kinds[draw(0, 2)];
    int64_t m = draw(1, 120), n = draw(0, 3) ? draw(1, 90) : 64 * draw(1, 2), groups = draw(1, 24), k = 64 * groups, rank = draw(0, 1) ? draw(1, 40) : 0;
    if (bits == 32) rank = 0;
    int weight_bits = bits != 32 && table->wide_sums && draw(0, 1) ? 8 : 4;
    Window window{};
    bool gathered = bits != 32 && draw(0, 1);
    int64_t pixels = m, taps = 1, channel_groups = groups;
    if (gathered) {
        channel_groups = draw(1, 3);
        window = {draw(1, 9), draw(1, 9), 64 * channel_groups, 0, 0, {draw(1, 3), draw(1, 3)}, {draw(1, 2), draw(1, 2)},
                  {draw(0, 2), draw(0, 2)}, {draw(1, 2), draw(1, 2)}};
        auto size = [&](int64_t length, int i) {
            int64_t room = length + 2 * window.padding[i] - window.dilation[i] * (window.taps[i] - 1) - 1;
            return room < 0 ? 0 : room / window.stride[i] + 1;
        };
        window.rows = size(window.height, 0), window.columns = size(window.width, 1);
        int64_t images = draw(1, 2);
        pixels = images * window.height * window.width, m = images * window.rows * window.columns;
        taps = window.taps[0] * window.taps[1], k = taps * window.channels;
        if (m == 0) return;
    }
    auto table_of_places = places(window);
    auto codes = bytes<int8_t>(bits == 32 ? 0 : pixels * k / taps * bits / 8);
    for (auto& code : codes)
        if (bits == 8 && code == -128) code = -127;  // what quantize never writes
    auto x = floats(bits == 32 ? m * k : 0);
    int64_t scale_groups = bits == 4 ? channel_groups : 1;
    auto scales = floats(pixels * scale_groups), weight_scales = floats(panels_of(table, n) * k / 64);
    auto stored = bytes<uint8_t>(n * k * weight_bits / 8), packed = std::vector<uint8_t>(table->packed_bytes(weight_bits, n, k));
    table->pack_weight(weight_bits, stored.data(), n, k, packed.data());
    bool in_bytes = table->wide_sums && !table->tiles && draw(0, 1);
    auto bias = floats(panels_of(table, n)), h = floats(pixels * taps * rank), up_scales = floats(in_bytes ? rank : panels_of(table, n));
    int64_t deep = table->tiles ? (rank + 31) / 32 * 32 : rank + rank % 2;
    auto up = words(in_bytes ? 0 : panels_of(table, n) * deep);
    auto up_bytes = bytes<uint8_t>(in_bytes ? panels_of(table, n) * ((rank + 3) / 4 * 4) : 0);
    const void* way_up = in_bytes ? static_cast<const void*>(up_bytes.data()) : up.data();
    // with wide sums: a scale of each group, or one of each tap, and maybe whole numbers on top
    int64_t weight_groups = table->wide_sums && bits != 32 && draw(0, 1) ? taps : k / 64;
    std::vector<int32_t> wholes(panels_of(table, n) * k / 64);
    for (auto& whole : wholes) whole = int32_t(draw(1, 16)) * 0x10001;
    bool whole = table->wide_sums && weight_groups == taps && weight_bits == 4 && draw(0, 1);
    auto other = floats(m * n), shared = floats(n);
    auto spread = [&]() -> Spread {
        if (bits == 32 || draw(0, 1)) return {nullptr, 0};
        return draw(0, 1) ? Spread{other.data(), draw(1, 3), n} : Spread{shared.data(), 0, 0};
    };
    std::vector<float> y(m * n);
    ProductCall call{bits == 32 ? static_cast<const void*>(x.data()) : codes.data(), scales.data(), packed.data(),
                     weight_scales.data(), whole ? wholes.data() : nullptr, draw(0, 1) ? bias.data() : nullptr, rank ? h.data() : nullptr,
                     rank ? way_up : nullptr, up_scales.data(), gathered ? &window : nullptr, m, n, k, rank, scale_groups, weight_groups, bits,
                     weight_bits, in_bytes ? 8 : 16, int32_t(draw(0, 3)), 0, spread(), spread(), y.data()};
    if (table->tiles && bits != 32 && !gathered && n % 64 == 0 && draw(0, 1)) call.paired = 1, call.n = n /= 2;
    if (table->tiles && bits == 8 && !gathered && n % 64 == 0) {
        QuantizeCall next{};
        auto smooth = floats(n);
        bool down_in_bytes = draw(0, 1);
        auto down = words(down_in_bytes ? 0 : panels_of(table, 40) * n);
        auto down_bytes = bytes<uint8_t>(down_in_bytes ? panels_of(table, 40) * n : 0);
        auto down_scales = floats(panels_of(table, 40));
        std::vector<int8_t> next_codes(m * n);
        std::vector<float> next_scales(m), next_h(m * 40);
        next.smooth = draw(0, 1) ? smooth.data() : nullptr, next.m = m, next.k = n, next.rank = 40, next.bits = 8;
        next.codes = next_codes.data(), next.scales = next_scales.data(), next.h = draw(0, 1) ? next_h.data() : nullptr;
        next.down = down_in_bytes ? static_cast<const void*>(down_bytes.data()) : down.data();
        next.down_scales = down_scales.data(), next.branch_bits = down_in_bytes ? 8 : 16;
        call.next = &next, call.y = nullptr;
        aq_product(table, &call, int(draw(1, 4)));
        return;
    }
    aq_product(table, &call, 1);
}

void attention(const KernelTable* table) {
    int64_t batch = draw(1, 2), heads = draw(1, 3), queries = draw(1, 60), keys = draw(1, 300), width = draw(1, 80);
    auto q = floats(batch * queries * heads * width), k = floats(batch * keys * heads * width), v = floats(k.size());
    std::vector<float> y(q.size());
    auto of = [&](const std::vector<float>& x, int64_t rows) {
        return Heads{x.data(), rows * heads * width, width, heads * width};
    };
    AttentionCall call{of(q, queries), of(k, keys), of(v, keys), batch, heads, queries, keys, width, 0.1f, int32_t(draw(0, 1)), y.data()};
    aq_attention(table, &call, int(draw(1, 3)));
}

void linear(const KernelTable* table) {
    int64_t m = draw(1, 100), n = draw(1, 90), k = draw(1, 150), pixels = 0;
    Window window{draw(1, 9), draw(1, 9), draw(1, 9), 0, 0, {draw(1, 3), draw(1, 3)}, {draw(1, 2), draw(1, 2)},
                  {draw(0, 2), draw(0, 2)}, {1, 1}};
    window.rows = window.height + 2 * window.padding[0] - window.taps[0] + 1;
    window.columns = window.width + 2 * window.padding[1] - window.taps[1] + 1;
    bool gathered = draw(0, 1) && window.rows > 0 && window.columns > 0, in_panels = draw(0, 1);
    if (gathered) {
        window.rows = (window.rows - 1) / window.stride[0] + 1, window.columns = (window.columns - 1) / window.stride[1] + 1;
        m = 2 * window.rows * window.columns, pixels = 2 * window.height * window.width;
        k = window.taps[0] * window.taps[1] * window.channels;
    }
    auto table_of_places = gathered ? places(window) : std::vector<int32_t>();
    auto x = floats(gathered ? pixels * window.channels : m * k), bias = floats(n);
    auto weight = floats(k * (in_panels ? panels_of(table, n) : n)), scales = floats(n);
    auto codes = bytes<int8_t>(n * k);
    std::vector<float> y(m * n);
    bool small = draw(0, 1);
    LinearCall call{x.data(), small ? static_cast<const void*>(codes.data()) : weight.data(), small ? scales.data() : nullptr,
                    draw(0, 1) ? bias.data() : nullptr, gathered ? &window : nullptr, m, n, k, in_panels, int32_t(draw(0, 3)),
                    y.data()};
    aq_linear(table, &call, 1);
}

void group_affine(const KernelTable* table) {
    int64_t images = draw(1, 3), pixels = draw(1, 50), groups = draw(1, 8), channels = groups * draw(1, 20);
    auto x = floats(images * pixels * channels), weight = floats(channels);
    std::vector<float> gain(images * channels), offset(images * channels);
    GroupAffineCall call{x.data(), draw(0, 1) ? weight.data() : nullptr, draw(0, 1) ? weight.data() : nullptr,
                         images, pixels, channels, groups, 1e-5f, gain.data(), offset.data()};
    aq_group_affine(table, &call, 1);
}

void depthwise(const KernelTable* table) {
    Window window{draw(1, 9), draw(1, 9), draw(1, 90), draw(1, 5), draw(1, 5), {3, 3}, {1, 1}, {1, 1}, {1, 1}};
    auto table_of_places = places(window);
    int64_t n = window.channels, m = 2 * window.outputs();
    auto x = floats(2 * window.height * window.width * n), weight = floats(9 * n), bias = floats(n);
    std::vector<float> y(m * n);
    LinearCall call{x.data(), weight.data(), nullptr, draw(0, 1) ? bias.data() : nullptr, &window, m, n, 9, 0, 0, y.data()};
    aq_depthwise(table, &call, 1);
}

void winograd(const KernelTable* table) {
    Window window{draw(1, 9), draw(1, 9), 16 * draw(1, 5), 0, 0, {3, 3}, {1, 1}, {draw(1, 2), draw(1, 2)}, {1, 1}};
    window.rows = window.height + 2 * window.padding[0] - 2, window.columns = window.width + 2 * window.padding[1] - 2;
    window.squares = (window.rows + 1) / 2 * ((window.columns + 1) / 2);
    std::vector<int32_t> squares(window.squares * 20);
    for (size_t i = 0; i < squares.size(); ++i)
        squares[i] = int32_t(draw(-1, (i % 20 < 16 ? window.height * window.width : window.outputs()) - 1));
    if (draw(0, 1)) window.places = squares.data();
    int64_t n = draw(1, 90), k = window.channels;
    auto x = floats(2 * window.height * window.width * k), weight = floats(16 * k * panels_of(table, n)), bias = floats(n);
    std::vector<float> y(2 * window.outputs() * n);
    LinearCall call{x.data(), weight.data(), nullptr, draw(0, 1) ? bias.data() : nullptr, &window, 2 * window.squares, n, k, 1, 0,
                    y.data()};
    aq_winograd(table, &call, 1);
}

void moved_affine(const KernelTable* table) {
    int64_t images = draw(1, 2), rows = draw(0, 30), groups = draw(1, 6), channels = groups * draw(1, 50);
    auto gain = floats(images * channels), offset = floats(images * channels);
    auto before = floats(images * rows * channels), now = floats(images * rows * channels);
    std::vector<float> new_gain(images * channels), new_offset(images * channels);
    MovedAffineCall call{gain.data(), offset.data(), before.data(), now.data(), images, rows, channels, groups, rows + draw(0, 9),
                         1e-5f, new_gain.data(), new_offset.data()};
    aq_moved_affine(table, &call, 1);
}

void recall(const KernelTable* table) {
    static const int kinds[] = {4, 8, 32};
    int bits = kinds[draw(0, 2)];
    int64_t images = draw(1, 2), count = draw(1, 30), width = 64 * draw(1, 3), rows = draw(1, 40), group = bits == 4 ? 64 : width;
    std::vector<int64_t> index(rows);
    for (auto& place : index) place = draw(0, count - 1);
    bool all = draw(0, 1);
    rows = all ? count : rows;
    auto codes = bytes<uint8_t>(images * count * width * bits / 8), scales = bytes<uint8_t>(images * count * width / group * (bits == 4 ? 2 : 4));
    int64_t before_rows = draw(0, 1) ? draw(1, 9) : 0;
    auto before = floats(images * before_rows * width);
    std::vector<float> y(images * (before_rows + rows) * width);
    RecallCall call{codes.data(), scales.data(), all ? nullptr : index.data(), before_rows ? before.data() : nullptr, images, count,
                    rows, before_rows, width, group, bits, y.data()};
    aq_recall(table, &call, 1);
}

}  // namespace

int main(int argc, char** argv) {
    int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    for (int index = 0; index < 5; ++index) {
        const KernelTable* table = aq_kernels(index);
        if (!table) continue;
        for (int round = 0; round < rounds; ++round) {
            quantize(table);
            product(table);
            group_affine(table);
            attention(table);
            linear(table);
            depthwise(table);
            winograd(table);
            moved_affine(table);
            recall(table);
        }
        std::printf("%s\n", table->name);
    }
}
