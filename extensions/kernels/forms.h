// The forms in which a weight may be stored: one table, by which the packed form, the paths and the
// scales go.
//
// A path multiplies w + zero, which is never negative. It is what is stored, but for a form with
// values: there the place of w among the values is stored, which lie closer where weights are many.
// With a minimum, which each block has beside its scale, a weight is scale * w + minimum.
//
// A block of 256 has 8 or 16 parts. Each has a scale of 8 bits, and maybe a minimum, which those of
// the block are multiplied by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>
#include <utility>

namespace mpsplit {

struct Form {
    int bits;                        // what Shape calls it
    int stored;                      // bits of a weight in memory
    int zero;                        // w + zero is 0 or more
    int low, high;                   // the least and the largest w
    int smallest;                    // the w nearest to 0: where the scale is 0
    const int8_t* values = nullptr;  // as many as there are places, rising, in an array of 16
    bool minimum = false;
    int parts = 0;         // of a block
    bool nibbles = false;  // scale and minimum of a part: of 4 bits, in one byte

    constexpr bool by_table() const { return values != nullptr; }
    constexpr int places() const { return 1 << stored; }
    // whose blocks come as they are: no floats are rounded to it
    constexpr bool given() const { return minimum || parts; }
    constexpr int halves() const {
        return parts > 8 ? 2 : 1;
    }  // of 32 inputs, with their own scale
    constexpr int each() const { return minimum ? 2 : 1; }  // numbers of a block, or of a part
    constexpr int numbers() const { return each() * (1 + parts); }  // that a block has, all in all
};

constexpr int parts_block = 256, most_numbers = 2 * (1 + 16);

// Four bits as GGUF's IQ4_NL has them. The values of 3 and of 2 bits are those that lost least of
// 42,000 blocks of SmolLM2's weights, each with the scale of either sign that suits it best
// (Lloyd's algorithm, then steps of 1): 2.4 % and 10.0 % of the squares, where integers lose 2.8 %
// and 11.4 %. They are as small as they may be without losing 1 % more: so AVX2 adds up products of
// them in 16 bits.
constexpr int table_bits = 20, table_of_3_bits = 19, table_of_2_bits = 18;
constexpr int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};
constexpr int8_t table_of_3[16] = {-32, -19, -11, -5, 1, 7, 15, 25};
constexpr int8_t table_of_2[16] = {-16, -5, 2, 11};

// with a minimum: GGUF's Q4_1 and Q5_1 are such
constexpr int minimum_bits = 32;

// in blocks of parts: GGUF's Q6_K, IQ4_XS and Q3_K, and with a minimum Q4_K, Q5_K and Q2_K
constexpr int parts_bits = 64;

constexpr Form forms[] = {
    {4, 4, 8, -8, 7, 0},
    {6, 6, 32, -32, 31, 0},
    {8, 8, 128, -128, 127, 0},
    {16, 16, 0, 0, 0, 0},
    {table_bits, 4, 128, table[0], table[15], table[8], table},
    {table_of_3_bits, 3, 32, table_of_3[0], table_of_3[7], table_of_3[4], table_of_3},
    {table_of_2_bits, 2, 16, table_of_2[0], table_of_2[3], table_of_2[2], table_of_2},
    {minimum_bits + 4, 4, 0, 0, 15, 0, nullptr, true},
    {minimum_bits + 5, 5, 0, 0, 31, 0, nullptr, true},
    {parts_bits + 6, 6, 32, -32, 31, 0, nullptr, false, 16},
    {parts_bits + table_bits, 4, 128, table[0], table[15], table[8], table, false, 8},
    {parts_bits + 3, 3, 4, -4, 3, 0, nullptr, false, 16},
    {parts_bits + minimum_bits + 4, 4, 0, 0, 15, 0, nullptr, true, 8},
    {parts_bits + minimum_bits + 5, 5, 0, 0, 31, 0, nullptr, true, 8},
    {parts_bits + minimum_bits + 2, 2, 0, 0, 3, 0, nullptr, true, 16, true},
};

// nullptr where there is none
static constexpr const Form* find_form(int bits) {
    for (const Form& form : forms)
        if (form.bits == bits) return &form;
    return nullptr;
}
// of bits that a Shape was checked for
static constexpr const Form& form_of(int bits) { return *find_form(bits); }

// run(bits), bits a number that the compiler knows
template <class Run>
static void with_form(int bits, Run run) {
    [&]<size_t... i>(std::index_sequence<i...>) {
        ((forms[i].bits == bits ? run(std::integral_constant<int, forms[i].bits>()) : void()), ...);
    }(std::make_index_sequence<std::size(forms)>());
}

// the place of w among the values, or -1
static constexpr int place_of(const Form& form, int w) {
    for (int i = 0; i < form.places(); i++)
        if (form.values[i] == w) return i;
    return -1;
}

static constexpr bool has(const Form& form, int w) {
    return form.by_table() ? place_of(form, w) >= 0 : w >= form.low && w <= form.high;
}

}  // namespace mpsplit
