#include "tilt.h"

#include <bit>

namespace mpsplit {

void Tilt::change(std::span<const int64_t> numbers) {
    repetition_ = std::bit_cast<double>(numbers[0]);
    presence_ = std::bit_cast<double>(numbers[1]);
    frequency_ = std::bit_cast<double>(numbers[2]);
    for (size_t i = 3; i + 2 < numbers.size(); i += 3) {
        const int64_t token = numbers[i];
        const double count = double(numbers[i + 1]), bias = std::bit_cast<double>(numbers[i + 2]);
        const auto [found, fresh] = where_.try_emplace(token, tokens_.size());
        const size_t at = found->second;
        if (count == 0 && bias == 0) {  // the last one takes its place
            where_.erase(found);
            if (fresh) continue;
            if (at + 1 != tokens_.size()) {
                tokens_[at] = tokens_.back(), counts_[at] = counts_.back();
                biases_[at] = biases_.back();
                where_[tokens_[at]] = at;
            }
            tokens_.pop_back(), counts_.pop_back(), biases_.pop_back();
        } else if (fresh) {
            tokens_.push_back(token), counts_.push_back(count), biases_.push_back(bias);
        } else {
            counts_[at] = count, biases_[at] = bias;
        }
    }
}

void Tilt::apply(std::span<const float> logits, int64_t first, std::vector<int32_t>& at,
                 std::vector<double>& values) const {
    const size_t most = tokens_.size();
    at.resize(most), values.resize(most);
    static thread_local std::vector<double> counts, biases;
    counts.resize(most), biases.resize(most);
    size_t here = 0;
    for (size_t i = 0; i < most; ++i) {
        const int64_t row = tokens_[i] - first;
        if (row < 0 || row >= int64_t(logits.size())) continue;
        at[here] = int32_t(row), values[here] = logits[size_t(row)];
        counts[here] = counts_[i], biases[here] = biases_[i];
        ++here;
    }
    at.resize(here), values.resize(here);
    for (size_t i = 0; i < here; ++i) {
        const double old = values[i] + biases[i];
        const double divided = old < 0 ? old * repetition_ : old / repetition_;
        const double lowered = divided - (presence_ + frequency_ * counts[i]);
        values[i] = counts[i] > 0 ? lowered : old;
    }
}

}  // namespace mpsplit
