// What a rank answers about its slice of the logits, as mpsplit/runtime/choose/answers.py says.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "orders.h"
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

  private:
    // The logits after tilt and mask: floats as they were, -inf where one is not allowed or tilted;
    // the tilted ones beside them.
    void see(std::span<const float> logits, int64_t slot, int64_t changed);
    void likeliest(size_t count);
    void own(size_t count);
    void sums(double temperature);
    void blocks(double temperature);
    void cells(double temperature, int64_t top, int64_t count);
    std::span<const int32_t> between(double low, double high);
    void cell(double temperature, int64_t top, int64_t which, bool own);
    void span(int64_t from, int64_t count, bool own);
    double top(double temperature) const;

    int64_t first_;
    std::map<int64_t, Tilt> tilts_;
    std::map<int64_t, std::vector<int64_t>> masks_;

    std::span<const float> logits_, plain_;
    std::vector<float> changed_;
    std::vector<int32_t> at_;     // rows that are tilted
    std::vector<double> tilted_;  // and their logits
    std::vector<int32_t> rows_;
    std::vector<double> weights_;  // sums by block of answer_block rows
    std::vector<double> message_;
};

}  // namespace mpsplit
