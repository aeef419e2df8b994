// Where every bit of a packed matrix is.
//
//   matrix   panels of 16 outputs, one after another; n is rounded up, the rows that do not exist
//            have scale 0 (or are 0)
//
//   panel    | scales 0, 1 | block 0 | block 1 | scales 2, 3 | block 2 | block 3 | ...
//            one straight read; an odd last block has its line of scales to itself
//
//   scales   one line of 64 bytes, two blocks x 16 outputs x float16. With a minimum each block has a
//            line before it: 16 scales, then 16 minimums. A block of parts has a line too, and then
//            16 bytes for each part, its 16 outputs; after all scales come all minimums. In nibbles
//            the upper ones are the minimums
//
//   block    chunks of 32 inputs, one after another: 1, 2, 4 or 8
//
//   chunk    2 bits:  | T0 | T1 |                                         2 lines of 64 bytes
//            3 bits:  | T0 | T1 | H  |                                    3
//            4 bits:  | L0 | L1 | L2 | L3 |                               4
//            5 bits:  | L0 | L1 | L2 | L3 | H  |                          5
//            6 bits:  | L0 | L1 | L2 | L3 | T0 | T1 |                     6
//            8 bits:  | G0 | G1 | G2 | G3 | G4 | G5 | G6 | G7 |           8
//
//   group Gg = inputs 4g .. 4g + 3 of 16 outputs, output after output: byte 4o + i is the weight
//   of output o, input 4g + i. A dot-product instruction takes such a line and four activations,
//   and leaves 16 sums.
//
//            Lj:  low nibbles are the low 4 bits of Gj, high nibbles those of G(j+4)
//            Tj:  2 bits of each weight, the low ones or those above 4:
//                 bits 0-1 G(2j)   2-3 G(2j+4)   4-5 G(2j+1)   6-7 G(2j+5)
//            H:   bit g is the top bit of a weight of Gg
//
//   16 bits: a panel is chunks alone, of 16 lines, for k rounded up to 32. Line j = inputs 2j and
//   2j + 1 of 16 outputs: bytes 4o .. 4o + 1 are the bfloat16 of input 2j, the next two that of
//   2j + 1. What lies beyond k is 0.
//
// An integer weight w is stored as w + zero (forms.h), never negative: that is the operand that x86
// multiplies by signed activations. By table (forms.h) its place among the values is stored.
// Everything has 64-byte alignment and is little endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "forms.h"
#include "qlinear.h"

// `static`, not `inline`: each path compiles this file for its own CPU, and the linker must never
// swap one's code for another's.
namespace mpsplit {

constexpr int panel_rows = 16, chunk_inputs = 32, groups = 8, line = 64;

static constexpr int zero_point(int bits) { return form_of(bits).zero; }
static constexpr int chunk_bytes(int bits) { return form_of(bits).stored * line; }
static constexpr bool is_float(int bits) { return bits == 16; }
static constexpr int blocks(const Shape& s) { return s.k / s.block + (s.k % s.block != 0); }
static constexpr int panels(int n) { return n / panel_rows + (n % panel_rows != 0); }

// which share a line of scales
static constexpr int blocks_of_line(int bits) {
    return form_of(bits).parts ? 1 : 2 / form_of(bits).each();
}
// what stands before the chunks of these
static constexpr int head_bytes(int bits) {
    const Form& form = form_of(bits);
    return line + form.parts * panel_rows * (form.nibbles ? 1 : form.each());
}
// inputs that x has a scale for
static constexpr int input_block(const Shape& s) {
    return form_of(s.bits).parts ? chunk_inputs : s.block;
}
static constexpr int input_blocks(const Shape& s) { return blocks(s) * (s.block / input_block(s)); }
static constexpr size_t block_bytes(const Shape& s) {
    return size_t(s.block / chunk_inputs) * chunk_bytes(s.bits);
}
static constexpr size_t panel_bytes(const Shape& s) {
    const size_t count = blocks(s), lined = blocks_of_line(s.bits),
                 heads = is_float(s.bits) ? 0 : (count + lined - 1) / lined * head_bytes(s.bits);
    return heads + count * block_bytes(s);
}

// where in its panel block b has its line of scales and its chunks
static constexpr size_t scales_at(const Shape& s, int b) {
    const int lined = blocks_of_line(s.bits);
    return b / lined * (head_bytes(s.bits) + lined * block_bytes(s)) + b % lined * (line / lined);
}
// number i of output o: 0 is its scale, 1 its minimum
static constexpr size_t number_at(const Shape& s, int b, int i, int o) {
    return scales_at(s, b) + size_t(i * panel_rows + o) * 2;
}
// the same of a part
static constexpr size_t part_at(const Shape& s, int b, int i, int part, int o) {
    const Form& form = form_of(s.bits);
    const int row = form.nibbles ? part : i * form.parts + part;
    return scales_at(s, b) + line + size_t(row * panel_rows + o);
}
static constexpr size_t chunks_at(const Shape& s, int b) {
    return (b / blocks_of_line(s.bits) + 1) * size_t(head_bytes(s.bits)) + b * block_bytes(s);
}

using Groups = uint8_t[groups][line];  // a chunk with a byte for each weight: w + zero_point

// Some bits of every weight of a chunk, from the `first` on, in as many lines, from the `first` on:
// 4 in L, 2 in T, 1 in H. Of 8 bits there are none, each weight is a byte.
struct Plane {
    int bits, first;
};
static constexpr Plane lower_plane(int stored) { return {stored < 4 ? 2 : 4, 0}; }
static constexpr Plane upper_plane(int stored) {
    const int first = lower_plane(stored).bits;
    return {stored - first, first};
}

// where a plane has its bits of Gj and G(j+4): in which line, from which bit on
struct Place {
    int line, low, high;
};
static constexpr Place place_in(Plane plane, int j) {
    if (plane.bits == 1) return {plane.first, j, j + 4};
    const int low = j * 2 * plane.bits % 8;
    return {plane.first + j * plane.bits / 4, low, low + plane.bits};
}
// of a byte that begins with them
static constexpr int mask_of(Plane plane) { return (1 << plane.bits) - 1; }

template <int stored, class Run>
static void each_plane(Run run) {
    run(lower_plane(stored));
    if (upper_plane(stored).bits) run(upper_plane(stored));
}

template <int stored>
static void encode_stored(const Groups& g, uint8_t* chunk) {
    if constexpr (stored == 8)
        std::memcpy(chunk, g, sizeof g);
    else {
        std::memset(chunk, 0, size_t(stored) * line);
        each_plane<stored>([&](Plane plane) {
            for (int j = 0; j < 4; j++) {
                const Place at = place_in(plane, j);
                for (int i = 0; i < line; i++) {
                    const int low = g[j][i] >> plane.first & mask_of(plane),
                              high = g[j + 4][i] >> plane.first & mask_of(plane);
                    chunk[at.line * line + i] |= uint8_t(low << at.low | high << at.high);
                }
            }
        });
    }
}

template <int bits>
static void encode(const Groups& g, uint8_t* chunk) {
    constexpr Form form = form_of(bits);
    if constexpr (form.by_table()) {
        Groups places;
        for (int j = 0; j < groups; j++)
            for (int i = 0; i < line; i++)
                places[j][i] = uint8_t(place_of(form, g[j][i] - form.zero));
        encode_stored<form.stored>(places, chunk);
    } else
        encode_stored<form.stored>(g, chunk);
}

// bytes begin to end - 1 of every line
template <int bits>
static void decode(const uint8_t* chunk, Groups& g, int begin = 0, int end = line) {
    constexpr Form form = form_of(bits);
    if constexpr (form.stored == 8) {
        for (int j = 0; j < groups; j++)
            std::memcpy(g[j] + begin, chunk + j * line + begin, size_t(end - begin));
        return;
    }
    each_plane<form.stored>([&](Plane plane) {
        for (int j = 0; j < 4; j++) {
            const Place at = place_in(plane, j);
            for (int i = begin; i < end; i++) {
                const int there = chunk[at.line * line + i],
                          low = (there >> at.low & mask_of(plane)) << plane.first,
                          high = (there >> at.high & mask_of(plane)) << plane.first;
                g[j][i] = uint8_t(plane.first ? g[j][i] | low : low);
                g[j + 4][i] = uint8_t(plane.first ? g[j + 4][i] | high : high);
            }
        }
    });
    if constexpr (form.by_table())
        for (int j = 0; j < groups; j++)
            for (int i = begin; i < end; i++) g[j][i] = uint8_t(form.values[g[j][i]] + form.zero);
}

}  // namespace mpsplit
