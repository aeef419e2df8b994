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

    struct Candidate {
        double logit;
        int64_t row;
        bool operator<(const Candidate& other) const {  // the likelier first
            return logit != other.logit ? logit > other.logit : row < other.row;
        }
    };

  private:
    // What the last CELLS or WIDE of a slot counted, and some beside it (cell -1): CELL tells
    // of it.
    struct Near {
        int64_t top = 0;  // where the cells begin
        std::vector<int32_t> rows, cells;
        std::vector<double> logits;
    };

    // These logits, the first of them of token `first`, after tilt and mask: floats as they were,
    // -inf where one is not allowed or tilted; the tilted ones beside them.
    void see(std::span<const float> logits, int64_t first, int64_t slot, const Wish& wish);
    void allow(int64_t first, std::span<const int64_t> bits);
    void survey();
    // Each adds to the message what answers.py says.
    void few(const Wish& wish);
    void blocks(double temperature);
    void wide(int64_t slot, const Wish& wish);
    void likeliest(size_t count);
    void tell_found();
    void own(size_t count);
    double weight(double temperature, size_t begin, size_t end,
                  std::span<const double> tilted) const;
    double rest(double temperature) const;
    void count_cells(int64_t slot, double heat, int64_t top, int64_t count);
    void find(Near& near, float lowest);
    void cell(std::span<const float> logits, int64_t slot, const Wish& wish);
    void span(std::span<const float> logits, int64_t slot, const Wish& wish);

    int64_t first_;
    std::map<int64_t, Tilt> tilts_;
    std::map<int64_t, std::vector<int64_t>> masks_;

    std::span<const float> logits_, plain_;
    std::vector<float> changed_;
    std::vector<int32_t> at_;       // rows that are tilted
    std::vector<double> tilted_;    // and their logits
    std::vector<int32_t> runs_;     // the largest plain ones, by run of rows
    double best_ = 0;               // of all
    std::map<int64_t, Near> near_;  // by slot
    std::vector<Candidate> found_;
    std::vector<int32_t> rows_;
    std::vector<double> weights_;
    std::vector<double> message_;
};

}  // namespace mpsplit
