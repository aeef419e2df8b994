// What a rank answers about its slice of the logits, as mpsplit/runtime/choose/answers.py says.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "draw.h"
#include "near.h"
#include "orders.h"
#include "seen.h"
#include "thread_pool.h"
#include "tilt.h"

namespace mpsplit {

// What rank 0 wants to know, as mpsplit/runtime/choose/answers.py says. `start` and `count` are of
// cells, of one of them, and of a span.
struct Wish {
    int64_t wanted = nothing_wanted, likely = -1, changed = 0;
    double temperature = 0;
    int64_t start = 0, count = 0;
};

// What is drawn for one slot, from all logits that there are.
struct Asked {
    std::span<const float> logits;
    int64_t slot = 0;
    Wish wish;
    Draw draw;
};

class Answers {
  public:
    // `threads`: that draw; one answers.
    explicit Answers(int64_t first_row, int threads = 1)
        : first_(first_row), seats_(size_t(threads)) {}

    // By slot. The first change of a request forgets what was there.
    void tilt(int64_t slot, bool fresh, std::span<const int64_t> changes);
    void mask(int64_t slot, std::span<const int64_t> bits);

    // One message, valid until the next, about the logits of what a slot says next.
    std::span<const double> answer(std::span<const float> logits, int64_t slot, const Wish& wish);

    // A message each, of different slots: the token in the place of the answer; an empty one where
    // all must be looked at in one order.
    std::vector<std::vector<double>> draws(std::span<const Asked> asked);

  private:
    // What one thread looks at, and what it tells of it.
    struct Seat {
        Seen seen;
        std::vector<Candidate> found;
        std::vector<double> message;

        // Each adds to the message what answers.py says.
        void few(const Wish& wish, int64_t first);
        void wide(const Wish& wish, Near& near);
        void own(size_t count, int64_t first);
        void tell_found(int64_t first);
        void tell_cells(const Near& near);
        void add(std::span<const double> numbers);
    };

    void see(Seat& seat, std::span<const float> logits, int64_t first, int64_t slot,
             const Wish& wish) const;
    void cell(Seat& seat, std::span<const float> logits, int64_t slot, const Wish& wish);
    void span(Seat& seat, std::span<const float> logits, int64_t slot, const Wish& wish) const;
    std::vector<double> draw(Seat& seat, const Asked& asked);

    int64_t first_;
    std::map<int64_t, Tilt> tilts_;
    std::map<int64_t, std::vector<int64_t>> masks_;
    std::map<int64_t, Near> near_;    // what the last CELLS or WIDE counted: CELL tells of it
    std::optional<ThreadPool> pool_;  // once several are drawn at a time
    std::vector<Seat> seats_;
};

}  // namespace mpsplit
