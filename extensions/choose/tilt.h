// What a request does to the model's logits before a token is chosen: penalties for tokens that
// occur, and logit_bias. It names few tokens and is kept from step to step, change by change.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mpsplit {

class Tilt {
  public:
    // The numbers of the verb TILT: three penalties, then token, count and bias of each change.
    void change(std::span<const int64_t> numbers);
    // Its tokens that lie in these rows, the first of which is token `first`: the rows in ascending
    // order, and the number of the first of the tokens.
    size_t rows(int64_t first, size_t count, std::vector<int32_t>& at) const;
    // Logits of its tokens from the `begin`-th on, in place. In the order of choosing.py: bias,
    // repetition, presence and frequency.
    void apply(size_t begin, std::span<double> logits) const;

  private:
    double repetition_ = 1, presence_ = 0, frequency_ = 0;
    std::vector<int64_t> tokens_;  // ascending
    std::vector<double> counts_, biases_;
};

}  // namespace mpsplit
