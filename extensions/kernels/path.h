// What a path is made of, and the loop that all of them share.
//
// Isa, in an anonymous namespace of its path's file, brings
//   Dots                        16 int32, one for each output of the panel; start<zero>(n): all are
//                               zero * n, zero 0 or a power of 2
//   Floats                      16 float32; zero(), scales(16 halfs), store(y, floats)
//   bytes(at), nibbles(at, high)        of 16 bytes their numbers: with signs; one nibble's
//   times(a, b)                 of two Floats
//   accumulate(sum, dots, scales, x)    sum + dots * (scales * x)
//   add_times(sum, floats, x)           sum + floats * x
//   chunk<bits, half>(lines, inputs, dots)    dots[r] += weights of one chunk, or of half of it, *
//                               inputs [8][width][4]
//   add(a, b)                   of two Floats
//   line_of_pairs(line, inputs, sums)   sums[r] += a line of 16 bits * inputs [width][2]
//   pairs(lines, inputs, even, odd)     pairs_by_lines, where it has an order of its own
//   offset                      false where it subtracts a zero point of 128 itself
#pragma once

#include <type_traits>

#include "layout.h"
#include "tile.h"

namespace mpsplit {

// of the inputs of a chunk; their sums are in this order in a tile
enum class Half { both, first, second };

struct Path {
    const char* name;
    int widest;  // rows of a tile at most: 1, 2, 4 or 8
    bool (*runs_here)();
    void (*quantise)(const float* x, int block, int width, int row, uint8_t* tile_block);
    // y [width, 16] = tile [width, k] * panel [16, k]^T
    void (*panel)(const Shape& shape, const uint8_t* panel, const uint8_t* tile, int width,
                  float* y);
};

// a lambda is part of what calls it from the start: only then are the elements of an array
// registers
#define INLINED __attribute__((always_inline))

template <int value>
using number = std::integral_constant<int, value>;

// run(i), i = 0 .. count - 1 being numbers that the compiler knows
template <int count, class Run>
[[gnu::always_inline]] static inline void each(Run run) {
    [&]<int... i>(std::integer_sequence<int, i...>)
        INLINED { (run(number<i>()), ...); }(std::make_integer_sequence<int, count>());
}

// Far enough that memory answers in time, near enough that the line is still in the first cache
// when its turn comes. It crosses the ends of panels, which follow each other in memory. (1024: 90
// % of the memory speed on a Zen 4, 2560 and more: all of it.)
constexpr int prefetch_ahead = 4096;

// The scales of one block, or of its parts; and the minimums
template <class Isa, int bits>
struct Scales_of {
    static constexpr Form form = form_of(bits);
    const uint8_t* line_of_block;
    typename Isa::Floats block[2];

    explicit Scales_of(const uint8_t* at)
        : line_of_block(at),
          block{Isa::scales(at), form.minimum ? Isa::scales(at + line / 2) : Isa::zero()} {}
    // number 0 or 1 of a part
    typename Isa::Floats number(int i, int part) const {
        if constexpr (!form.parts) return block[i];
        const uint8_t* parts = line_of_block + line;
        if constexpr (form.nibbles)
            return Isa::times(block[i], Isa::nibbles(parts + part * panel_rows, i == 1));
        else
            return Isa::times(block[i], Isa::bytes(parts + (i * form.parts + part) * panel_rows));
    }
};

template <class Isa, int bits, int width>
static void panel(const Shape& shape, const uint8_t* weights, const uint8_t* tile, float* y) {
    constexpr Form form = form_of(bits);
    constexpr int zero = form.zero == 128 && !Isa::offset ? 0 : form.zero, halves = form.halves(),
                  lined = blocks_of_line(bits), head = head_bytes(bits);
    const int size = input_block(shape), chunks = size / chunk_inputs;
    typename Isa::Floats sums[width];
    for (auto& sum : sums) sum = Isa::zero();
    const uint8_t* scales = nullptr;
    for (int b = 0; b < blocks(shape); b++) {
        if (b % lined == 0) {
            for (int l = 0; l < head; l += line) __builtin_prefetch(weights + prefetch_ahead + l);
            scales = weights;
            weights += head;
        }
        const Scales_of<Isa, bits> numbers(scales + b % lined * (line / lined));
        for (int part = 0; part < (form.parts ? form.parts : 1); part += halves) {
            const float* x_scales = reinterpret_cast<const float*>(tile);
            // of the block, of its first half, of its second
            const int32_t* minus = reinterpret_cast<const int32_t*>(tile) + width;
            const float* totals = x_scales + 4 * width;
            const int32_t* inputs = minus + 4 * width;
            auto add = [&](auto known, int place) INLINED {
                constexpr Half half = decltype(known)::value;
                const int32_t* missing = minus + int(half) * width;
                typename Isa::Dots dots[width];
                each<width>([&](auto r)
                                INLINED { dots[r] = Isa::template start<zero>(missing[r]); });
                for (int c = 0; c < chunks; c++)
                    Isa::template chunk<bits, half>(weights + c * chunk_bytes(bits),
                                                    inputs + c * groups * width, dots);
                const auto own = numbers.number(0, place);
                each<width>([&](auto r) INLINED {
                    sums[r] = Isa::accumulate(sums[r], dots[r], own, x_scales[r]);
                });
                if constexpr (form.minimum) {
                    const auto minimums = numbers.number(1, place);
                    each<width>([&](auto r) INLINED {
                        sums[r] = Isa::add_times(
                            sums[r], minimums,
                            half == Half::both ? totals[r] : x_scales[r] * float(-missing[r]));
                    });
                }
            };
            for (int l = 0; l < chunks * form.stored; l++)
                __builtin_prefetch(weights + prefetch_ahead + l * line);
            if constexpr (halves == 1)
                add(std::integral_constant<Half, Half::both>(), part);
            else {
                add(std::integral_constant<Half, Half::first>(), part);
                add(std::integral_constant<Half, Half::second>(), part + 1);
            }
            weights += chunks * chunk_bytes(bits);
            tile += tile_block_bytes(width, size, false);
        }
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
