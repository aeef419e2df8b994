// What a rank answers about its slice of the logits, as mpsplit/runtime/choose/answers.py says.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "draw.h"
#include "near.h"
#include "orders.h"
#include "seen.h"
#include "tilt.h"

namespace mpsplit {

// What rank 0 wants to know, as mpsplit/runtime/choose/answers.py says. `start` and `count` are of
// cells, of one of them, and of a span.
struct Wish {
    int64_t wanted = nothing_wanted, likely = -1, changed = 0;
    double temperature = 0;
    int64_t start = 0, count = 0;
};

class Answers {
  public:
    explicit Answers(int64_t first_row) : first_(first_row) {}

    // By slot. The first change of a request forgets what was there.
    void tilt(int64_t slot, bool fresh, std::span<const int64_t> changes);
    void mask(int64_t slot, std::span<const int64_t> bits);

    // One message, valid until the next, about the logits of what a slot says next.
    std::span<const double> answer(std::span<const float> logits, int64_t slot, const Wish& wish);

    // Where these are all logits that there are: the token in the place of the answer; none where
    // all must be looked at in one order.
    std::span<const double> draw(std::span<const float> logits, int64_t slot, const Wish& wish,
                                 const Draw& draw);

  private:
    void see(std::span<const float> logits, int64_t first, int64_t slot, const Wish& wish);
    // Each adds to the message what answers.py says.
    void few(const Wish& wish);
    void wide(int64_t slot, const Wish& wish);
    void own(size_t count);
    void cell(std::span<const float> logits, int64_t slot, const Wish& wish);
    void span(std::span<const float> logits, int64_t slot, const Wish& wish);
    void tell_found();
    void tell_cells(const Near& near);
    void add(std::span<const double> numbers);

    int64_t first_;
    std::map<int64_t, Tilt> tilts_;
    std::map<int64_t, std::vector<int64_t>> masks_;

    Seen seen_;
    std::map<int64_t, Near>
        near_;  // by slot, what the last CELLS or WIDE counted: CELL tells of it
    std::vector<Candidate> found_;
    std::vector<double> message_;
};

}  // namespace mpsplit
