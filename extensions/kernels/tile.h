// x as the kernels read it: int8 in tiles, a tile being the few rows that share one reading of the
// weights.
//
//   tile of w rows:   for each block
//                     scale float [w] | minus int32 [3][w] | total float [w] |
//                     inputs int8 [block / 4][w][4]
//
// For weights in bfloat16:  inputs bfloat16 [block / 2][w][2], and 0 beyond k.
//
// so that a kernel reads straight on. x = scale * input, |input| <= 127. minus: the sum of the
// block's inputs, that of the first 16 and that of the others, times -1, of which weights stored as
// w + zero need zero times more. total = scale * sum: what a minimum is multiplied by.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace mpsplit {

struct Tile {
    int first, width;  // rows first .. first + width - 1
};

static constexpr size_t tile_block_bytes(int width, int block, bool floats) {
    return size_t(width) * (floats ? 2 * block : 20 + block);
}

// Tiles of the widest kind, then halves of it down to one row.
static Tile tile_at(int rows, int widest, int index) {
    int whole = rows / widest;
    if (index < whole) return {index * widest, widest};
    int first = whole * widest;
    for (index -= whole; index > 0; index--) first += int(std::bit_floor(unsigned(rows - first)));
    return {first, int(std::bit_floor(unsigned(rows - first)))};
}

static int tile_count(int rows, int widest) {
    return rows / widest + std::popcount(unsigned(rows % widest));
}

struct Quantised {
    float scale;
    int32_t sum, half;  // of the inputs, and of the first 16
};

// All but the inputs of a block, whose place it gives
static uint8_t* begin_block(Quantised x, int width, int row, uint8_t* tile_block) {
    const float total = x.scale * float(x.sum);
    const int32_t minus[] = {-x.sum, -x.half, x.half - x.sum};
    std::memcpy(tile_block + 4 * row, &x.scale, 4);
    for (int i = 0; i < 3; i++) std::memcpy(tile_block + 4 * ((1 + i) * width + row), &minus[i], 4);
    std::memcpy(tile_block + 4 * (4 * width + row), &total, 4);
    return tile_block + 4 * (5 * width + row);
}

// One block of one row, x [block], into column `row` of its tile. Every path compiles this for its
// own CPU, with equal results: integer maximum and sum, and rounding by adding 1.5 * 2^23, which
// leaves the integer in the low bits.
static void quantise(const float* x, int block, int width, int row, uint8_t* tile_block) {
    uint32_t peak_bits = 0;
    for (int i = 0; i < block; i++) {
        uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffff;
        peak_bits = bits > peak_bits ? bits : peak_bits;
    }
    float peak = std::bit_cast<float>(peak_bits);
    // 127 / peak would not be finite; a nan or an infinity lives on in the scale
    bool nothing = peak < 1e-30f;
    float scale = nothing ? 0 : peak / 127, inverse = nothing ? 0 : 127 / peak;
    int8_t inputs[128];
    int32_t sum = 0, half = 0;
    for (int i = 0; i < block; i++) {
        if (i == 16) half = sum;
        int32_t rounded =
            int32_t(std::bit_cast<uint32_t>(x[i] * inverse + 0x1.8p23f) - 0x4b400000u);
        inputs[i] = int8_t(rounded);
        sum += inputs[i];
    }
    uint8_t* out = begin_block({scale, sum, half}, width, row, tile_block);
    if (width == 1)
        std::memcpy(out, inputs, block);
    else
        for (int i = 0; i < block; i += 4) std::memcpy(out + i * width, inputs + i, 4);
}

// The same of a block in bfloat16, of which `there` inputs exist
static void narrow(const float* x, int there, int block, int width, int row, uint8_t* tile_block) {
    uint16_t inputs[128] = {};
    for (int i = 0; i < there; i++) inputs[i] = to_bfloat(x[i]);
    uint8_t* out = tile_block + 4 * row;
    for (int i = 0; i < block; i += 2) std::memcpy(out + i * 2 * width, inputs + i, 4);
}

}  // namespace mpsplit
