// Where every bit of a packed matrix is.
//
//   matrix   panels of 16 outputs, one after another; n is rounded up, the rows that do not exist
//            have scale 0 (or are 0)
//
//   panel    | scales 0, 1 | block 0 | block 1 | scales 2, 3 | block 2 | block 3 | ...
//            one straight read; an odd last block has its line of scales to itself
//
//   scales   one line of 64 bytes, two blocks x 16 outputs x float16. With a minimum each block has a
//            line before it: 16 scales, then 16 minimums
//
//   block    chunks of 32 inputs, one after another: 1, 2 or 4
//
//   chunk    4 bits:  | L0 | L1 | L2 | L3 |                               4 lines of 64 bytes
//            5 bits:  | L0 | L1 | L2 | L3 | H  |                          5
//            6 bits:  | L0 | L1 | L2 | L3 | H0 | H1 |                     6
//            8 bits:  | G0 | G1 | G2 | G3 | G4 | G5 | G6 | G7 |           8
//
//   group Gg = inputs 4g .. 4g + 3 of 16 outputs, output after output: byte 4o + i is the weight
//   of output o, input 4g + i. A dot-product instruction takes such a line and four activations,
//   and leaves 16 sums.
//
//            Lj:  low nibbles are the low 4 bits of Gj, high nibbles those of G(j+4)
//            H:   bit g is the top bit of a 5-bit weight of Gg
//            Hj:  the top 2 bits of a 6-bit weight:
//                 bits 0-1 G(2j)   2-3 G(2j+4)   4-5 G(2j+1)   6-7 G(2j+5)
//
//   16 bits: a panel is chunks alone, of 16 lines, for k rounded up to 32. Line j = inputs 2j and
//   2j + 1 of 16 outputs: bytes 4o .. 4o + 1 are the bfloat16 of input 2j, the next two that of
//   2j + 1. What lies beyond k is 0.
//
// An integer weight w is stored as w + 2^(bits-1), never negative: that is the operand that x86
// multiplies by signed activations. By table (forms.h), which is laid out like 4 bits, it is stored
// as its place among the 16 values. Everything has 64-byte alignment and is little endian.
#pragma once

#include <cstddef>
#include <cstdint>

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
static constexpr int blocks_of_line(int bits) { return 2 / form_of(bits).numbers(); }
static constexpr size_t block_bytes(const Shape& s) {
    return size_t(s.block / chunk_inputs) * chunk_bytes(s.bits);
}
static constexpr size_t panel_bytes(const Shape& s) {
    const size_t count = blocks(s), lined = blocks_of_line(s.bits),
                 scales = is_float(s.bits) ? 0 : (count + lined - 1) / lined * line;
    return scales + count * block_bytes(s);
}

// where in its panel block b has its line of scales and its chunks
static constexpr size_t scales_at(const Shape& s, int b) {
    const int lined = blocks_of_line(s.bits);
    return b / lined * (line + lined * block_bytes(s)) + b % lined * (line / lined);
}
// number i of output o: 0 is its scale, 1 its minimum
static constexpr size_t number_at(const Shape& s, int b, int i, int o) {
    return scales_at(s, b) + size_t(i * panel_rows + o) * 2;
}
static constexpr size_t chunks_at(const Shape& s, int b) {
    return (b / blocks_of_line(s.bits) + 1) * size_t(line) + b * block_bytes(s);
}

using Groups = uint8_t[groups][line];  // a chunk with a byte for each weight: w + zero_point

// What 5 and 6 bits of Gj and G(j+4) have above their nibbles: in which line, from which bit on;
// and the mask of that in a weight
struct Top {
    int line, low, high, mask;
};
template <int stored>
static constexpr Top top_of(int j) {
    if (stored == 5) return {4, j, j + 4, 0x10};
    return {4 + j / 2, j % 2 * 4, j % 2 * 4 + 2, 0x30};
}

template <int stored>
static void encode_stored(const Groups& g, uint8_t* chunk) {
    auto at = [&](int l) { return chunk + l * line; };
    for (int i = 0; i < line; i++) {
        if constexpr (stored == 8)
            for (int l = 0; l < groups; l++) at(l)[i] = g[l][i];
        else
            for (int j = 0; j < 4; j++) at(j)[i] = (g[j][i] & 15) | g[j + 4][i] << 4;
        if constexpr (stored == 5 || stored == 6) {
            for (int l = 4; l < stored; l++) at(l)[i] = 0;
            for (int j = 0; j < 4; j++) {
                const Top top = top_of<stored>(j);
                at(top.line)[i] |= g[j][i] >> 4 << top.low | g[j + 4][i] >> 4 << top.high;
            }
        }
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
    for (int j = 0; j < 4; j++)
        for (int i = begin; i < end; i++) {
            if constexpr (form.stored == 8) {
                g[j][i] = chunk[j * line + i];
                g[j + 4][i] = chunk[(j + 4) * line + i];
            } else {
                g[j][i] = chunk[j * line + i] & 15;
                g[j + 4][i] = chunk[j * line + i] >> 4;
            }
            if constexpr (form.stored == 5 || form.stored == 6) {
                const Top top = top_of<form.stored>(j);
                const int bits_there = chunk[top.line * line + i];
                g[j][i] |= bits_there >> top.low << 4 & top.mask;
                g[j + 4][i] |= bits_there >> top.high << 4 & top.mask;
            }
        }
    if constexpr (form.by_table())
        for (int j = 0; j < groups; j++)
            for (int i = begin; i < end; i++) g[j][i] = uint8_t(form.values[g[j][i]] + form.zero);
}

}  // namespace mpsplit
