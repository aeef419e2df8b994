// The numbers of an order, as mpsplit/runtime/loop/order_numbers.py packs and reads them.
//
// In: an order and its numbers. Out: what they say. Invariant: nothing is read beyond the numbers,
// and what means nothing is a BadOrder. What earlier orders said is looked at in follow.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "answers.h"
#include "orders.h"

namespace mpsplit {

using Numbers = std::span<const int64_t>;

// Why an order means nothing. Whoever catches it adds which order that was, and on which rank.
struct BadOrder : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The verb and the fields, for people.
std::string told(const Order& order);

void want(bool good, const std::string& why);  // throws a BadOrder
void check_count(const Order& order);          // before its numbers have come

struct Parts {
    std::vector<Question> questions;
    Numbers tokens;
};
Parts parts_of(const Order& order, Numbers numbers);  // of a step or a batch
Wish wish_of(const Question& question);
void check(const Wish& wish);

void check_slot(const Order& order);
void check_pages(Numbers pages);
void check_tilt(const Order& order, Numbers changes);
void check_place(const Order& order, Numbers pages);
void check_reserve(const Order& order);

struct Kept {
    KeptSegment segment;
    std::string folder;
};
Kept kept_of(const Order& order, Numbers numbers);  // of a save or a load

struct Swept {
    std::string folder;
    std::vector<std::string> saves;
};
Swept swept_of(const Order& order, Numbers numbers);

}  // namespace mpsplit
