// What a path is made of, and the loop that all of them share.
//
// Isa, in an anonymous namespace of its path's file, brings
//   Dots                        16 int32, one for each output of the panel; start(n) sets all to n
//   Floats                      16 float32; zero(), scales(16 halfs), store(y, floats)
//   accumulate(sum, dots, scales, x)    sum + dots * (scales * x)
//   add_times(sum, floats, x)           sum + floats * x
//   chunk<bits>(lines, inputs, dots)    dots[r] += weights of one chunk * inputs [8][width][4]
//   add(a, b)                   of two Floats
//   line_of_pairs(line, inputs, sums)   sums[r] += a line of 16 bits * inputs [width][2]
//   pairs(lines, inputs, even, odd)     pairs_by_lines, where it has an order of its own
//   offset                      false where it subtracts a zero point of 128 itself
#pragma once

#include <type_traits>

#include "layout.h"
#include "tile.h"

namespace mpsplit {

struct Path {
    const char* name;
    int widest;  // rows of a tile at most: 1, 2, 4 or 8
    bool (*runs_here)();
    void (*quantise)(const float* x, int block, int width, int row, uint8_t* tile_block);
    // y [width, 16] = tile [width, k] * panel [16, k]^T
    void (*panel)(const Shape& shape, const uint8_t* panel, const uint8_t* tile, int width,
                  float* y);
};

// Far enough that memory answers in time, near enough that the line is still in the first cache
// when its turn comes. It crosses the ends of panels, which follow each other in memory. (1024: 90
// % of the memory speed on a Zen 4, 2560 and more: all of it.)
constexpr int prefetch_ahead = 4096;

template <class Isa, int bits, int width>
static void panel(const Shape& shape, const uint8_t* weights, const uint8_t* tile, float* y) {
    constexpr bool is_signed = zero_point(bits) == 128 && !Isa::offset;
    constexpr int eights = is_signed ? 0 : zero_point(bits) / 8;
    constexpr int lined = blocks_of_line(bits);
    const int blocks = shape.k / shape.block, chunks = shape.block / chunk_inputs;
    typename Isa::Floats sums[width];
    for (auto& sum : sums) sum = Isa::zero();
    const uint8_t* scales = nullptr;
    for (int b = 0; b < blocks; b++) {
        if (b % lined == 0) {
            __builtin_prefetch(weights + prefetch_ahead);
            scales = weights;
            weights += line;
        }
        const float* x_scales = reinterpret_cast<const float*>(tile);
        const int32_t* x_eights = reinterpret_cast<const int32_t*>(tile) + width;
        const float* x_sums = x_scales + 2 * width;
        const int32_t* inputs = x_eights + 2 * width;
        typename Isa::Dots dots[width];
        for (int r = 0; r < width; r++) dots[r] = Isa::start(eights * x_eights[r]);
        for (int c = 0; c < chunks; c++, weights += chunk_bytes(bits), inputs += groups * width) {
            for (int l = 0; l < form_of(bits).stored; l++)
                __builtin_prefetch(weights + prefetch_ahead + l * line);
            Isa::template chunk<bits>(weights, inputs, dots);
        }
        auto s = Isa::scales(scales + b % lined * (line / lined));
        for (int r = 0; r < width; r++) sums[r] = Isa::accumulate(sums[r], dots[r], s, x_scales[r]);
        if constexpr (form_of(bits).minimum) {
            auto minimums = Isa::scales(scales + line / 2);
            for (int r = 0; r < width; r++) sums[r] = Isa::add_times(sums[r], minimums, x_sums[r]);
        }
        tile += tile_block_bytes(width, shape.block, false);
    }
    for (int r = 0; r < width; r++) Isa::store(y + r * panel_rows, sums[r]);
}

// Of a chunk of 16 bits and inputs [16][width][2]: even += its even lines * inputs, odd += its odd
// ones.
template <class Isa, class Sum, int width>
static void pairs_by_lines(const uint8_t* lines, const int32_t* inputs, Sum (&even)[width],
                           Sum (&odd)[width]) {
    for (int l = 0; l < 16; l += 2) {
        Isa::template line_of_pairs<width>(lines + l * line, inputs + l * width, even);
        Isa::template line_of_pairs<width>(lines + (l + 1) * line, inputs + (l + 1) * width, odd);
    }
}

// Two sums for each row: one alone would wait for itself. They are the same for every width, and so
// are the results.
template <class Isa, int width>
static void float_panel(const Shape& shape, const uint8_t* weights, const uint8_t* tile, float* y) {
    typename Isa::Floats even[width], odd[width];
    for (int r = 0; r < width; r++) even[r] = odd[r] = Isa::zero();
    for (int b = 0; b < blocks(shape); b++, weights += chunk_bytes(16)) {
        for (int l = 0; l < 16; l++) __builtin_prefetch(weights + prefetch_ahead + l * line);
        const auto* inputs = reinterpret_cast<const int32_t*>(tile);
        if constexpr (requires { Isa::template pairs<width>(weights, inputs, even, odd); })
            Isa::template pairs<width>(weights, inputs, even, odd);
        else
            pairs_by_lines<Isa>(weights, inputs, even, odd);
        tile += tile_block_bytes(width, shape.block, true);
    }
    for (int r = 0; r < width; r++) Isa::store(y + r * panel_rows, Isa::add(even[r], odd[r]));
}

template <class Isa, int bits, int width>
static void panel_of(const Shape& shape, const uint8_t* weights, const uint8_t* tile, float* y) {
    if constexpr (is_float(bits))
        float_panel<Isa, width>(shape, weights, tile, y);
    else
        panel<Isa, bits, width>(shape, weights, tile, y);
}

template <class Isa, int bits>
static void panel_of_width(const Shape& shape, const uint8_t* weights, const uint8_t* tile,
                           int width, float* y) {
    if constexpr (Isa::widest >= 8)
        if (width == 8) return panel_of<Isa, bits, 8>(shape, weights, tile, y);
    if constexpr (Isa::widest >= 4)
        if (width == 4) return panel_of<Isa, bits, 4>(shape, weights, tile, y);
    width == 2 ? panel_of<Isa, bits, 2>(shape, weights, tile, y)
               : panel_of<Isa, bits, 1>(shape, weights, tile, y);
}

template <class Isa>
static void any_panel(const Shape& shape, const uint8_t* weights, const uint8_t* tile, int width,
                      float* y) {
    with_form(shape.bits, [&](auto bits) {
        panel_of_width<Isa, decltype(bits)::value>(shape, weights, tile, width, y);
    });
}

template <class Isa>
static constexpr Path path_of(const char* name, bool (*runs_here)(),
                              decltype(&quantise) quantise = mpsplit::quantise) noexcept {
    return {name, Isa::widest, runs_here, quantise, any_panel<Isa>};
}

}  // namespace mpsplit
