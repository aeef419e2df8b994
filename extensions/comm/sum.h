// out = low + high, element by element. `low` is the lower position's part, so that both ends of an
// exchange add alike.
#pragma once

#include "comm.h"

namespace mpsplit {

void add(Type type, void* out, const void* low, const void* high, size_t count);

}  // namespace mpsplit
