// 16-bit floats in plain C++: to the nearest, ties to even, with subnormals.
#pragma once

#include <bit>
#include <cstdint>

namespace mpsplit {

static inline float from_half(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // 2^112 lifts the exponent from half's bias to float's, subnormals included
    float value = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

static inline uint16_t to_half(float f) {
    uint32_t bits = std::bit_cast<uint32_t>(f), sign = bits >> 16 & 0x8000,
             rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return sign | 0x7e00;
    if (rest >= 0x477ff000) return sign | 0x7c00;  // 65520 and more
    if (rest < 0x38800000)  // subnormal: adding 0.5 leaves the rounded mantissa in the low bits
        return sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000);
    rest += 0xfff + (rest >> 13 & 1);
    return sign | (rest - 0x38000000) >> 13;
}

static inline float from_bfloat(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

static inline uint16_t to_bfloat(float f) {
    uint32_t bits = std::bit_cast<uint32_t>(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace mpsplit
