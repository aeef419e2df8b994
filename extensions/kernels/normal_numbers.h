// Normally distributed numbers for tests, the same at every run.
#pragma once

#include <random>
#include <vector>

namespace mpsplit {

inline std::vector<float> normal(size_t count) {
    static std::mt19937 random_bits(0);  // NOLINT(bugprone-random-generator-seed): on purpose
    std::normal_distribution<float> draw;
    std::vector<float> values(count);
    for (float& v : values) v = draw(random_bits);
    return values;
}

}  // namespace mpsplit
