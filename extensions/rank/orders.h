// What rank 0 tells the others. Do not edit: made of verbs.py and orders.py by
//   python -m mpsplit.runtime.loop.orders_header > extensions/rank/orders.h
// mpsplit/runtime/loop/orders.py says how ranks start and answer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mpsplit {

constexpr int64_t orders_version = 4;
constexpr int lead = 0;
constexpr int64_t nothing_wanted = 0, all_wanted = -1;
constexpr size_t whose_bytes = 64;  // of the text of save and load, before the folder

enum class Verb : int64_t {
    // Append `count` tokens at `position` of `slot`. Then answer, where this rank has rows of the
    // head and something is `wanted`.
    step = 0,
    // Append tokens to `position` slots at once. The numbers are a `Question` for each slot, then
    // all tokens. Then answer for each, in order.
    batch = 1,
    // Answer again, from the logits of the last step after the tokens of its `position`-th slot.
    more = 2,
    // From the `position`-th on, the pages of `slot` are these numbers.
    place = 3,
    // A cache of `count` pages, stored as CACHES[`token`] (engine_protocol.py).
    reserve = 4,
    // The first `position` tokens of `slot` go to this rank's file of a folder in the package. The
    // numbers are whose they are, 64 bytes, and the folder, padded with 0 (kept_texts.py). All
    // ranks gather int64 [1], how it went. Of 0 tokens: the file is removed.
    save = 5,
    // And from there, into the pages of `slot`.
    load = 6,
    // All ranks gather int64: the account of what ran since the last one (account.py).
    report = 7,
    // Leave.
    end = 8,
};

struct VerbFacts {
    bool numbered;  // brings `count` numbers: `token`, or for more than one int64 [count]
    bool resting;   // the next order may take as long as it likes
};
constexpr VerbFacts verb_facts[] = {
    // by number
    {true, false},   // step
    {true, false},   // batch
    {false, false},  // more
    {true, false},   // place
    {false, true},   // reserve
    {true, true},    // save
    {true, true},    // load
    {false, true},   // report
    {false, false},  // end
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
    int64_t slot = 0, position = 0, length = 0, wanted = 0;
    double temperature = 0;
};
static_assert(sizeof(Question) == 40);

}  // namespace mpsplit
