// 2^x for many numbers at once: plain arithmetic that the compiler turns into vectors.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace mpsplit {

// For x <= 0, to 5e-11 of itself (choosing.py allows for 1e-9). What is lower than -1000, and a
// nan, counts as -1000: nothing in any sum.
inline double exp2_below_0(double x) {
    constexpr double shift = 0x1.8p52;  // adding it rounds to a whole number, in the low bits
    x = x > -1000 ? x : -1000;
    const double shifted = x + shift;
    const double r = x - (shifted - shift);  // |r| <= 1/2
    // the polynomial of this degree whose largest error of 2^r is least
    double power = 0x1.fe1786b50da52p-17;
    power = power * r + 0x1.446a1fdd54f3ap-13;
    power = power * r + 0x1.5d8a7085cddb8p-10;
    power = power * r + 0x1.3b29dc40d2ec5p-7;
    power = power * r + 0x1.c6b08aaf3156ep-5;
    power = power * r + 0x1.ebfbe0a4be886p-3;
    power = power * r + 0x1.62e42ff11627ap-1;
    power = power * r + 0x1.ffffffffabbccp-1;
    return std::bit_cast<double>(std::bit_cast<uint64_t>(power) +
                                 (std::bit_cast<uint64_t>(shifted) << 52));  // times 2^whole
}

// The same to 2e-7 of itself, in half the time, above -100; 2^0 is 1 exactly.
inline float exp2_below_0(float x) {
    constexpr float shift = 0x1.8p23f;
    x = x > -100 ? x : -100;
    const float shifted = x + shift;
    const float r = x - (shifted - shift);
    float power = 0x1.5bba14p-10f;
    power = power * r + 0x1.3cea88p-7f;
    power = power * r + 0x1.c6b752p-5f;
    power = power * r + 0x1.ebf9bcp-3f;
    power = power * r + 0x1.62e42ap-1f;
    power = power * r + 1;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(power) +
                                (std::bit_cast<uint32_t>(shifted) << 23));
}

}  // namespace mpsplit
