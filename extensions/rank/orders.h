// What rank 0 tells the others. Do not edit: made of verbs.py and orders.py by
//   python -m mpsplit.runtime.loop.orders_header > extensions/rank/orders.h
// mpsplit/runtime/loop/orders.py says how ranks start and answer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpsplit {

constexpr int64_t orders_version = 5;
constexpr int lead = 0;
constexpr int64_t nothing_wanted = 0, all_wanted = -1;
constexpr int64_t blocks_wanted = -2, cells_wanted = -3;
constexpr int64_t cell_wanted = -4, span_wanted = -5;
constexpr int64_t wide_wanted = -6;
constexpr int64_t by_tilt = 1, by_mask = 2;
constexpr size_t answer_block = 1024;
constexpr int64_t most_cells = 4096;
constexpr int64_t most_numbers = 16777216, largest_number = 2147483647;
constexpr int64_t largest_start = 9007199254740992;
constexpr int64_t page_positions = 32, caches = 3;
constexpr double answer_grain = 32;
constexpr double coldest = 1e-05, edge = 1e-09, deepest = 60;
constexpr int64_t nucleus = 256, few_candidates = 4096;
constexpr size_t save_name_bytes = 32;

enum class Verb : int64_t {
    // Append `count` tokens at `position` of `slot`. Then answer, where this rank has rows of the
    // head and something is `wanted`.
    step = 0,
    // Append tokens to `position` slots at once. The numbers are a `Question` for each slot, then
    // all tokens. Then answer for each, in order.
    batch = 1,
    // Answer again, from the logits of the last step after the tokens of its `position`-th slot:
    // what is `wanted` now, from `token` on, `count` of it (answers.py).
    more = 2,
    // From the `position`-th on, the pages of `slot` are these numbers.
    place = 3,
    // A cache of `count` pages, stored as CACHES[`token`] (engine_protocol.py).
    reserve = 4,
    // A segment of `slot` begins to go to a new file of this rank, beside the steps. The numbers
    // are a `KeptSegment` and a folder of the package, padded with 0.
    save = 5,
    // A segment comes from its file into the pages of `slot`; the numbers are those of SAVE. All
    // ranks gather int64 [1], how it went (outcomes.py).
    load = 6,
    // All ranks gather int64: the account of what ran since the last one (account.py).
    report = 7,
    // Leave.
    end = 8,
    // All ranks gather int64 [2]: how the last SAVE went, or goes, and a detail (outcomes.py).
    saved = 9,
    // Of this rank's files in a folder, those of `position` saves stay, and the others go, beside
    // the steps. The numbers are the saves' names, 32 bytes each, and the folder, padded with 0.
    sweep = 10,
    // What the request in `slot` does to logits by token: what is new (tilt.py), or with `position`
    // 1 all of it.
    tilt = 11,
    // The tokens that the request in `slot` may say next: a bit each.
    mask = 12,
    // What these pages hold is of no use any more; their memory goes back to the system.
    forget = 13,
};

struct VerbFacts {
    const char* name;
    bool numbered;  // brings `count` numbers: `token`, or for more than one int64 [count]
    bool resting;   // the next order may take as long as it likes
};
constexpr VerbFacts verb_facts[] = {
    {"step", true, false},     // 0
    {"batch", true, false},    // 1
    {"more", false, false},    // 2
    {"place", true, false},    // 3
    {"reserve", false, true},  // 4
    {"save", true, true},      // 5
    {"load", true, true},      // 6
    {"report", false, true},   // 7
    {"end", false, false},     // 8
    {"saved", false, true},    // 9
    {"sweep", true, true},     // 10
    {"tilt", true, false},     // 11
    {"mask", true, false},     // 12
    {"forget", true, true},    // 13
};

// One order; what a field means depends on the verb.
struct Order {
    Verb verb = Verb::end;
    int64_t slot = 0, position = 0, count = 0, wanted = 0, token = 0;
    double temperature = 0;
};
static_assert(sizeof(Order) == 56);

// A part of a step, and what rank 0 wants to know of the logits after it.
struct Question {
    int64_t slot = 0, position = 0, length = 0, wanted = 0, likely = -1, changed = 0;
    double temperature = 0;
};
static_assert(sizeof(Question) == 56);

// Tokens `first` to before `last` of a text, in a file of each rank; what comes of it is wanted up
// to `until`. `identity`: kept_texts.py.
struct KeptSegment {
    int64_t first = 0, last = 0, until = 0;
    char identity[160] = {};
};
static_assert(sizeof(KeptSegment) == 184);

}  // namespace mpsplit
