// exp in double for many numbers at once: plain arithmetic that the compiler turns into vectors.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace mpsplit {

// exp(x) for x <= 0, to 1e-11 of itself (choosing.py allows for 1e-9); 0 below -700, and for -inf.
inline double exp_below_0(double x) {
    constexpr double shift = 0x1.8p52;  // adding it rounds to a whole number, in the low bits
    constexpr double per_ln2 = 0x1.71547652b82fep0, ln2 = 0x1.62e42fefa3800p-1,
                     ln2_low = 0x1.ef35793c76730p-45;
    const bool none = !(x > -700);
    x = none ? 0 : x;
    const double shifted = x * per_ln2 + shift;
    const double whole = shifted - shift;
    const double r = (x - whole * ln2) - whole * ln2_low;  // |r| <= ln 2 / 2
    double sum = 1.0 / 362880;
    sum = sum * r + 1.0 / 40320;
    sum = sum * r + 1.0 / 5040;
    sum = sum * r + 1.0 / 720;
    sum = sum * r + 1.0 / 120;
    sum = sum * r + 1.0 / 24;
    sum = sum * r + 1.0 / 6;
    sum = sum * r + 1.0 / 2;
    sum = sum * r + 1;
    sum = sum * r + 1;
    const auto power = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;  // 2 ^ whole
    return none ? 0 : sum * std::bit_cast<double>(power);
}

}  // namespace mpsplit
