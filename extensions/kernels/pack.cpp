// Float32 or integers in, a packed matrix out, and back; and the view that knows the size.
#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "block_scale.h"
#include "half.h"
#include "layout.h"

namespace mpsplit {
namespace {

std::string text(const Shape& s) {
    return "n " + std::to_string(s.n) + ", k " + std::to_string(s.k) + ", bits " +
           std::to_string(s.bits) + ", block " + std::to_string(s.block);
}

void check(const Shape& s) {
    if (is_float(s.bits)) {
        if (s.block != chunk_inputs || s.n < 1 || s.k < 1)
            throw std::invalid_argument(text(s) +
                                        ": 16 bits come in a block of 32, n and k are at least 1");
        return;
    }
    const Form* form = find_form(s.bits);
    const bool block = form && form->parts ? s.block == parts_block
                                           : s.block == 32 || s.block == 64 || s.block == 128;
    if (!form || !block || s.n < 1 || s.k < s.block || s.k % s.block)
        throw std::invalid_argument(
            text(s) +
            ": bits are 4, 6, 8, 16, 18, 19, 20, 36 or 37, block is 32, 64 or 128 "
            "and divides k; or bits are "
            "67, 70, 84, 98, 100 or 101, and block is 256");
}

// what floats can be rounded to
void check_rounds(const Shape& s) {
    if (form_of(s.bits).given())
        throw std::invalid_argument(text(s) +
                                    ": blocks with a minimum or of parts come as integers alone");
}

void encode(int bits, const Groups& g, uint8_t* chunk) {
    with_form(bits, [&](auto known) { mpsplit::encode<decltype(known)::value>(g, chunk); });
}

// output o alone
void decode(int bits, const uint8_t* chunk, Groups& g, int o) {
    const int begin = 4 * o, end = begin + 4;
    with_form(bits,
              [&](auto known) { mpsplit::decode<decltype(known)::value>(chunk, g, begin, end); });
}

// What a block has beside its integers, as many as its form says, each a number that it can store:
// its scale, its minimum, the scales of its parts, their minimums.
using Numbers = std::array<float, most_numbers>;

// put(i, part, number), with part -1 for the block
template <class Put>
void each_number(const Form& form, Put put) {
    int next = 0;
    for (int i = 0; i < form.each(); i++) put(i, -1, next++);
    for (int i = 0; i < form.each(); i++)
        for (int part = 0; part < form.parts; part++) put(i, part, next++);
}

void write_number(const Shape& s, uint8_t* panel, int b, int o, int i, int part, float number) {
    if (part < 0) {
        const uint16_t half = to_half(number);
        std::memcpy(panel + number_at(s, b, i, o), &half, sizeof half);
        return;
    }
    uint8_t& byte = panel[part_at(s, b, i, part, o)];
    if (form_of(s.bits).nibbles)
        byte = uint8_t(byte | int(number) << 4 * i);
    else
        byte = uint8_t(int8_t(number));
}

float read_number(const Shape& s, const uint8_t* panel, int b, int o, int i, int part) {
    if (part < 0) {
        uint16_t half;
        std::memcpy(&half, panel + number_at(s, b, i, o), sizeof half);
        return from_half(half);
    }
    const uint8_t byte = panel[part_at(s, b, i, part, o)];
    return form_of(s.bits).nibbles ? float(byte >> 4 * i & 15) : float(int8_t(byte));
}

// whether a part can have it
bool is_of_part(const Form& form, float number) {
    const float low = form.nibbles ? 0 : -128, high = form.nibbles ? 15 : 127;
    return number >= low && number <= high && number == float(int(number));
}

// One block of a panel that was 0: values [16, block] and numbers [16].
void write_block(const Shape& s, uint8_t* panel, int b, const int8_t* values,
                 const Numbers* numbers) {
    each_number(form_of(s.bits), [&](int i, int part, int at) {
        for (int o = 0; o < panel_rows; o++) write_number(s, panel, b, o, i, part, numbers[o][at]);
    });
    for (int c = 0; c < s.block / chunk_inputs; c++) {
        Groups g;
        for (int o = 0; o < panel_rows; o++)
            for (int i = 0; i < chunk_inputs; i++)
                g[i / 4][4 * o + i % 4] =
                    values[o * s.block + c * chunk_inputs + i] + zero_point(s.bits);
        encode(s.bits, g, panel + chunks_at(s, b) + c * chunk_bytes(s.bits));
    }
}

// block_of(row, b, values) fills one row's block and returns its numbers
template <class BlockOf>
void pack_with(const Shape& s, void* packed, ThreadPool& pool, BlockOf block_of) {
    int blocks = s.k / s.block;
    pool.parallel(panels(s.n), [&](int p, int) {
        uint8_t* panel = static_cast<uint8_t*>(packed) + p * panel_bytes(s);
        std::memset(panel, 0, panel_bytes(s));
        for (int b = 0; b < blocks; b++) {
            int8_t values[panel_rows * parts_block];
            std::fill_n(values, panel_rows * s.block, int8_t(form_of(s.bits).smallest));
            Numbers numbers[panel_rows] = {};
            for (int o = 0; o < std::min(panel_rows, s.n - p * panel_rows); o++)
                numbers[o] = block_of(p * panel_rows + o, b, values + o * s.block);
            write_block(s, panel, b, values, numbers);
        }
    });
}

// where row o of a panel of 16 bits has input i
size_t bfloat_at(int o, int i) { return size_t(i) / 2 * line + 4 * o + i % 2 * 2; }

void pack_bfloats(const Shape& s, const float* rows, void* packed, ThreadPool& pool) {
    pool.parallel(panels(s.n), [&](int p, int) {
        uint8_t* panel = static_cast<uint8_t*>(packed) + p * panel_bytes(s);
        std::memset(panel, 0, panel_bytes(s));
        for (int o = 0; o < std::min(panel_rows, s.n - p * panel_rows); o++) {
            const float* row = rows + size_t(p * panel_rows + o) * s.k;
            for (int i = 0; i < s.k; i++) {
                uint16_t value = to_bfloat(row[i]);
                std::memcpy(panel + bfloat_at(o, i), &value, sizeof value);
            }
        }
    });
}

void unpack_bfloats(const uint8_t* panel, int o, int k, float* y) {
    for (int i = 0; i < k; i++) {
        uint16_t value;
        std::memcpy(&value, panel + bfloat_at(o, i), sizeof value);
        y[i] = from_bfloat(value);
    }
}

// take(at, values, numbers): inputs at .. at + 31 of a row of integers, and what their block has
template <class Take>
void each_chunk(const Weights& weights, int row, Take take) {
    const Shape& s = weights.shape;
    const uint8_t* panel = weights.data + row / panel_rows * panel_bytes(s);
    const int o = row % panel_rows;
    for (int at = 0; at < s.k; at += chunk_inputs) {
        int b = at / s.block;
        Numbers numbers = {};
        each_number(form_of(s.bits), [&](int i, int part, int place) {
            numbers[place] = read_number(s, panel, b, o, i, part);
        });
        Groups g;
        decode(s.bits, panel + chunks_at(s, b) + at % s.block / chunk_inputs * chunk_bytes(s.bits),
               g, o);
        int8_t values[chunk_inputs];
        for (int i = 0; i < chunk_inputs; i++)
            values[i] = int8_t(g[i / 4][4 * o + i % 4] - zero_point(s.bits));
        take(at, values, numbers);
    }
}

}  // namespace

size_t packed_bytes(const Shape& s) {
    check(s);
    return panels(s.n) * panel_bytes(s);
}

void pack(const Shape& s, const float* rows, void* packed, ThreadPool& pool, Scales scales) {
    check(s);
    if (is_float(s.bits)) return pack_bfloats(s, rows, packed, pool);
    check_rounds(s);
    pack_with(s, packed, pool, [&](int row, int b, int8_t* values) {
        const float* block = rows + size_t(row) * s.k + size_t(b) * s.block;
        return Numbers{from_half(fit(block, s.block, s.bits, scales, values))};
    });
}

void integers(const Shape& s, const float* rows, int8_t* values, float* scales, Scales method,
              ThreadPool& pool) {
    check(s);
    if (is_float(s.bits))
        throw std::invalid_argument(text(s) + ": bfloat16 has neither integers nor scales");
    check_rounds(s);
    pool.parallel(s.n, [&](int row, int) {
        for (int b = 0; b < s.k / s.block; b++) {
            const size_t at = size_t(row) * s.k + size_t(b) * s.block;
            scales[size_t(row) * (s.k / s.block) + b] =
                from_half(fit(rows + at, s.block, s.bits, method, values + at));
        }
    });
}

void pack(const Shape& s, const int8_t* values, const float* scales, void* packed,
          ThreadPool& pool) {
    check(s);
    if (is_float(s.bits))
        throw std::invalid_argument(text(s) + ": bfloat16 has neither integers nor scales");
    const Form& form = form_of(s.bits);
    for (size_t i = 0; i < size_t(s.n) * s.k; i++)
        if (!has(form, values[i]))
            throw std::invalid_argument(
                "value " + std::to_string(values[i]) +
                (form.by_table() ? " is not in the table of " : " does not fit ") +
                std::to_string(form.stored) + " bits");
    for (size_t i = 0; form.parts && i < size_t(s.n) * (s.k / s.block) * form.numbers(); i++)
        if (int(i % form.numbers()) >= form.each() && !is_of_part(form, scales[i]))
            throw std::invalid_argument("number " + std::to_string(scales[i]) +
                                        " of a part does not fit " +
                                        (form.nibbles ? "4 bits" : "8 bits with a sign"));
    pack_with(s, packed, pool, [&](int row, int b, int8_t* out) {
        const size_t block = size_t(row) * (s.k / s.block) + b;
        std::memcpy(out, values + block * s.block, s.block);
        Numbers numbers = {};
        std::copy_n(scales + block * form.numbers(), form.numbers(), numbers.begin());
        return numbers;
    });
}

void unpack(const Weights& weights, int row, float* y) {
    const Shape& s = weights.shape;
    if (is_float(s.bits))
        return unpack_bfloats(weights.data + row / panel_rows * panel_bytes(s), row % panel_rows,
                              s.k, y);
    const Form& form = form_of(s.bits);
    each_chunk(weights, row, [&](int at, const int8_t* values, const Numbers& numbers) {
        // number i of the block, or of the part that input `at` + j is in
        auto number = [&](int i, int j) {
            if (!form.parts) return numbers[i];
            const int part = (at + j) % s.block * form.parts / s.block;
            return numbers[i] * numbers[form.each() + i * form.parts + part];
        };
        for (int j = 0; j < chunk_inputs; j++) {
            const float product = float(values[j]) * number(0, j);
            y[at + j] = form.minimum ? product + number(1, j) : product;  // which makes 0 of -0
        }
    });
}

void unpack(const Weights& weights, float* rows) {
    for (int row = 0; row < weights.shape.n; row++)
        unpack(weights, row, rows + size_t(row) * weights.shape.k);
}

void integers(const Weights& weights, int8_t* values, float* scales) {
    const Shape& s = weights.shape;
    if (is_float(s.bits))
        throw std::invalid_argument(text(s) + ": bfloat16 has neither integers nor scales");
    const int count = form_of(s.bits).numbers();
    for (int row = 0; row < s.n; row++)
        each_chunk(weights, row, [&](int at, const int8_t* chunk, const Numbers& numbers) {
            std::memcpy(values + size_t(row) * s.k + at, chunk, chunk_inputs);
            const size_t block = size_t(row) * (s.k / s.block) + at / s.block;
            std::copy_n(numbers.begin(), count, scales + block * count);
        });
}

Weights view(const Shape& s, const void* packed, size_t bytes) {
    if (bytes < packed_bytes(s))
        throw std::invalid_argument(text(s) + " takes " + std::to_string(packed_bytes(s)) +
                                    " bytes, and there are " + std::to_string(bytes));
    if (reinterpret_cast<uintptr_t>(packed) % line)
        throw std::invalid_argument("packed weights start at a multiple of 64 bytes");
    return {s, static_cast<const uint8_t*>(packed)};
}

}  // namespace mpsplit
