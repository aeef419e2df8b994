// The logits near the best, by cell: of logits over the temperature one is 1 / answer_grain wide.
#pragma once

#include <cstdint>
#include <vector>

#include "seen.h"

namespace mpsplit {

class Near {
  public:
    // Of `count` cells, the first of which is `top`.
    void count(const Seen& seen, double temperature, int64_t top, int64_t count);
    // What is in a cell, by its place below the top, in descending order.
    void inside(int64_t cell, std::vector<Candidate>& found) const;

    int64_t top() const { return top_; }
    float lowest() const { return lowest_; }  // every logit that reaches it is here
    // By cell: how many, and the sum of exp(logit / temperature - (top + 1) / grain).
    const std::vector<double>& counts() const { return counts_; }
    const std::vector<double>& sums() const { return sums_; }
    // The same of all that are here, also the few just above and below the cells.
    double sum() const;

  private:
    int64_t top_ = 0;
    float lowest_ = 0;
    std::vector<int32_t> rows_, cells_;  // cell -1: just above or below
    std::vector<double> logits_, weights_, counts_, sums_;
};

// The cell of a logit over the temperature, 0 where it is too far for numbers to tell.
int64_t cell_of(double scaled);

}  // namespace mpsplit
