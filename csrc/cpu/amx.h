// Tiles of AMX: registers of 16 rows of 64 bytes. One product of two takes what 256 of vpdpbusd do, but nothing else can be done
// with a tile: sums go through memory to be scaled. Needs AMX instructions; other files of this folder must not include it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

namespace aquatint {

constexpr int64_t kTileRows = 16, kTileBytes = 1024;
constexpr int64_t kPair = 2 * kTileRows;  // rows of a product, and its columns

// Tiles are this thread's as long as this lives. What another library had set for them is gone behind it; oneDNN looks before
// it multiplies, and sets its own again.
class TilesInUse {
  public:
    TilesInUse() { _tile_loadconfig(&kShapes); }
    ~TilesInUse() { _tile_release(); }
    TilesInUse(const TilesInUse&) = delete;
    TilesInUse& operator=(const TilesInUse&) = delete;

  private:
    struct alignas(64) Shapes {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    static constexpr Shapes kShapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
};

// Rows that tiles are loaded from: 16 of 64 bytes, `line` bytes apart; the next 64 bytes of all are `step` bytes on, the next 16
// rows `apart`.
struct TileRows {
    const void* first;
    int64_t line, step, apart;
};

// What of a square is multiplied: 16 or all 32 of its rows, and columns; are sums added to what is there? And do rows pass the
// first-level cache by, so that a panel can stay there?
template <bool BothRows, bool BothColumns = true, bool Onto = false, bool Passing = false>
struct Square {
    static constexpr bool kBelow = BothRows, kBeside = BothColumns, kOnto = Onto, kPassing = Passing;
};

template <class S>
[[gnu::always_inline]] inline void load_rows(const void* from, int64_t line) {  // into tile 4
    if constexpr (S::kPassing)
        _tile_stream_loadd(4, from, line);
    else
        _tile_loadd(4, from, line);
}

// sums (16 or 32, 16 or 32) of 32 bits = rows x a panel of 32 columns, `count` tiles deep; rows of sums are `pitch` bytes apart. A
// panel has four bytes, or two bfloat16, of each column side by side: `Number` is int8_t or, for bfloat16, uint16_t.
// `meanwhile()` runs with every tile of a row: vectors work beside tiles.
template <class Number, class S, class F>
[[gnu::always_inline]] inline void multiply_tiles(TileRows rows, const void* panel, int64_t count, void* sums, int64_t pitch,
                                                  F&& meanwhile) {
    const auto* a = static_cast<const uint8_t*>(rows.first);
    const auto* b = static_cast<const uint8_t*>(panel);
    auto *out = static_cast<uint8_t*>(sums), *below = out + kTileRows * pitch;
    constexpr bool kBytes = std::is_same_v<Number, int8_t>;
    constexpr int kLine = 4 * kPair;  // bytes of a line of the panel
    asm volatile("" : : : "memory");  // g++ does not know that loading a tile reads memory
    if constexpr (S::kOnto) {
        _tile_loadd(0, out, pitch);
        if constexpr (S::kBeside) _tile_loadd(1, out + 64, pitch);
        if constexpr (S::kBelow) _tile_loadd(2, below, pitch);
        if constexpr (S::kBelow && S::kBeside) _tile_loadd(3, below + 64, pitch);
    } else {
        _tile_zero(0);
        if constexpr (S::kBeside) _tile_zero(1);
        if constexpr (S::kBelow) _tile_zero(2);
        if constexpr (S::kBelow && S::kBeside) _tile_zero(3);
    }
    for (int64_t i = 0; i < count; ++i, a += rows.step, b += kLine * 16) {
        _tile_loadd(6, b, kLine);
        if constexpr (S::kBeside) _tile_loadd(7, b + 64, kLine);
        load_rows<S>(a, rows.line);
        if constexpr (kBytes) {
            _tile_dpbssd(0, 4, 6);
            if constexpr (S::kBeside) _tile_dpbssd(1, 4, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (S::kBeside) _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (S::kBelow) load_rows<S>(a + rows.apart, rows.line);
        if constexpr (S::kBelow && kBytes) {
            _tile_dpbssd(2, 4, 6);
            if constexpr (S::kBeside) _tile_dpbssd(3, 4, 7);
        } else if constexpr (S::kBelow) {
            _tile_dpbf16ps(2, 4, 6);
            if constexpr (S::kBeside) _tile_dpbf16ps(3, 4, 7);
        }
        meanwhile();
    }
    _tile_stored(0, out, pitch);
    if constexpr (S::kBeside) _tile_stored(1, out + 64, pitch);
    if constexpr (S::kBelow) _tile_stored(2, below, pitch);
    if constexpr (S::kBelow && S::kBeside) _tile_stored(3, below + 64, pitch);
}

template <class Number, bool Both>
inline void multiply_tiles(TileRows rows, const void* panel, int64_t count, void* sums, int64_t pitch = 4 * kPair) {
    multiply_tiles<Number, Square<Both>>(rows, panel, count, sums, pitch, [] {});
}

// sums (16, 32) = rows of bfloat16, one tile after the other, x a panel: what may run between two steps of multiply_tiles.
[[gnu::always_inline]] inline void multiply_half(const void* rows, const void* panel, int64_t count, float* sums) {
    for (int64_t beside = 0; beside < 2; ++beside, sums += kTileRows) {
        const auto *a = static_cast<const uint8_t*>(rows), *b = static_cast<const uint8_t*>(panel) + beside * 64;
        asm volatile("" : : : "memory");
        _tile_zero(5);
        for (int64_t i = 0; i < count; ++i, a += kTileBytes, b += 4 * kPair * 16) {
            _tile_loadd(4, a, 64);
            _tile_loadd(6, b, 4 * kPair);
            _tile_dpbf16ps(5, 4, 6);
        }
        _tile_stored(5, sums, 4 * kPair);
    }
}

// body(whether both of two tiles hold rows, row) for every 32 rows.
template <class F>
inline void tile_pairs(int64_t count, F&& body) {
    int64_t row = 0;
    for (; row + kTileRows < count; row += kPair) body(std::true_type{}, row);
    if (row < count) body(std::false_type{}, row);
}

}  // namespace aquatint
