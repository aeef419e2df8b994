// Where things lie in one piece of memory, by the steps in which they live; where it begins, and
// that two of one step do not overlap, is all that counts.
//
// mpsplit/graph/shown/arena.py places alike, number by number: what it tells of a package is what
// the engine takes.
#pragma once

#include <cstdint>
#include <vector>

namespace mpsplit {

struct Lived {
    int64_t bytes;    // a multiple of arena_alignment
    int first, last;  // steps, the last included
};
constexpr int64_t arena_alignment = 64;

struct ArenaPlan {
    std::vector<int64_t> offsets;
    int64_t bytes = 0;
};

ArenaPlan plan_arena(const std::vector<Lived>& values);

}  // namespace mpsplit
