// What one rank handed to another, and how long it waited for it: messages counted by the length of
// the wait, so that what several steps, or several ranks, waited can be added up.
// mpsplit/comm/link_counts.py reads the same numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace mpsplit {

struct Passed {
    // the i-th are waits below shortest * sqrt(2)^i, the last also what is longer
    static constexpr int lengths = 48;
    static constexpr int64_t shortest = 500;  // ns

    int64_t bytes = 0, messages = 0;  // handed over
    int64_t waited = 0;               // ns
    int64_t waits[lengths] = {};

    void sent(size_t size) {
        bytes += int64_t(size);
        ++messages;
    }

    void wait(int64_t ns) {
        waited += ns;
        ++waits[ns < shortest
                    ? 0
                    : std::min(lengths - 1, 1 + int(2 * std::log2(double(ns) / shortest)))];
    }
};
static_assert(sizeof(Passed) == (3 + Passed::lengths) * sizeof(int64_t));

}  // namespace mpsplit
