// The logits of one answer as a request sees them: after the mask of its grammar and its tilt.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "tilt.h"

namespace mpsplit {

constexpr float never = -std::numeric_limits<float>::infinity();

// Whole numbers in the order of floats, and back: the largest of many is quicker to find.
inline int32_t key_of(float x) {
    const auto bits = std::bit_cast<int32_t>(x);
    return bits ^ (bits >> 31 & 0x7fffffff);
}
inline float of_key(int32_t key) { return std::bit_cast<float>(key ^ (key >> 31 & 0x7fffffff)); }

constexpr size_t run = 64;  // rows whose largest is known together

struct Candidate {
    double logit;
    int64_t row;
    bool operator<(const Candidate& other) const {  // the likelier first
        return logit != other.logit ? logit > other.logit : row < other.row;
    }
};

class Seen {
  public:
    // These logits, the first of them of token `first`; without a tilt or a mask where it is null.
    // `with_own`: own_runs() is wanted too.
    void look(std::span<const float> logits, int64_t first, const Tilt* tilt,
              const std::vector<int64_t>* mask, bool with_own);

    std::span<const float> own, plain;  // the model's; allowed ones, -inf where one is tilted
    std::vector<int32_t> at;            // rows that are tilted, ascending
    std::vector<double> tilted;         // and their logits
    std::vector<int32_t> runs;          // the key of the largest plain one, by run of rows
    double best = 0;                    // of all

    const std::vector<int32_t>& own_runs() const { return changes() ? own_runs_ : runs; }

    // The `count` likeliest in descending order, all where there are fewer. A row of -inf means
    // nothing.
    void likeliest(size_t count, std::vector<Candidate>& found) const;
    void own_likeliest(size_t count, std::vector<Candidate>& found) const;

  private:
    bool changes() const { return plain.data() != own.data(); }
    void change(int64_t first, const Tilt* tilt, const std::vector<int64_t>* mask, bool with_own);

    std::vector<float> changed_;
    std::vector<int32_t> own_runs_;
};

}  // namespace mpsplit
