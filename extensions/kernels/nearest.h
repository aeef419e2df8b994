// What a weight becomes that is divided by its block's scale.
#pragma once

#include <algorithm>

#include "forms.h"

namespace mpsplit {

// the nearest weight of the form; of two as near the even one, or the upper one of a table
template <int bits>
static float nearest(float x) {
    constexpr Form form = form_of(bits);
    if constexpr (form.by_table()) {
        float w = float(form.low);
        for (int i = 1; i < form.places(); i++) {
            const auto below = float(form.values[i - 1]), above = float(form.values[i]);
            w += x >= 0.5f * (below + above) ? above - below : 0.0f;
        }
        return w;
    } else {
        const float whole = 0x1.8p23f;  // leaves no room for a fraction, ties go to even
        x = std::min(std::max(x, float(form.low)), float(form.high));
        return (x + whole) - whole;
    }
}

}  // namespace mpsplit
