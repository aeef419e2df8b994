// A token drawn by the only rank there is: what choosing.py and cells.py do with the answers of
// several, in one place. What falls nearer than `edge` to where two tokens part is left to them.
#pragma once

#include <cstdint>
#include <vector>

#include "near.h"
#include "seen.h"

namespace mpsplit {

// As sampling.py has it; `random` is from 0 to below 1.
struct Draw {
    double temperature = 0;
    int64_t top_k = 0;
    double top_p = 1, min_p = 0;
    int64_t min_keep = 1;
    double random = 0;
};

struct Drawn {
    int64_t row = -1;  // -1: not sure
    int64_t wide = 0;  // cells for the next draw
};

// `wide`: how many cells to look at where top-p or min-p cut, 0 for as many as usual.
Drawn drawn(const Seen& seen, Near& near, const Draw& draw, int64_t wide);

}  // namespace mpsplit
