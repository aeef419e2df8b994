// What rank 0 tells the others, as mpsplit/runtime/loop/orders.py writes it; that file says what each order means and how ranks start.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpsplit {

constexpr int64_t orders_version = 4;
constexpr int lead = 0;
constexpr size_t whose_bytes = 64; // of the text of save and load, before the folder

enum class Verb : int64_t { step, batch, more, place, reserve, save, load, report, end };

struct Order {
    Verb verb = Verb::end;
    int64_t slot = 0, position = 0, count = 0;
    int64_t wanted = 0; // candidates: 0 none, -1 the whole slice
    int64_t token = 0;  // the one, when count is 1
    double temperature = 0;
};
static_assert(sizeof(Order) == 56);

struct Part { // of a batch
    int64_t slot = 0, position = 0, count = 0, wanted = 0;
    double temperature = 0;
};
static_assert(sizeof(Part) == 40);

} // namespace mpsplit
