// Which ways through the code inputs have gone. The compiler calls a function at each jump, where
// it is told -fsanitize-coverage=trace-pc.
#pragma once

#include <cstddef>

namespace mpsplit {

struct Reached {
    size_t ways = 0;  // from one jump to the next, each counted once
};
extern Reached reached;

void begin_way();  // of an input

}  // namespace mpsplit
