// e^x to a few units in the last place, in a form that the compiler turns into vector code.
#pragma once

#include <bit>
#include <cstdint>

namespace mpsplit {

static inline float exponential(float x) {
    x = x > -87.f ? x : -87.f;
    x = x < 88.f ? x : 88.f;
    float shifted = x * 1.44269504f + 0x1.8p23f, whole = shifted - 0x1.8p23f;
    float r = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    float p =
        1 +
        r * (1 + r * (0.5f + r * (0.166666666f + r * (0.0416666667f +
                                                      r * (0.00833333333f + r * 0.00138888889f)))));
    return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) - 0x4b400000u + 127) << 23);
}

}  // namespace mpsplit
