#include "tilt.h"

#include <algorithm>
#include <bit>

namespace mpsplit {

void Tilt::change(std::span<const int64_t> numbers) {
    repetition_ = std::bit_cast<double>(numbers[0]);
    presence_ = std::bit_cast<double>(numbers[1]);
    frequency_ = std::bit_cast<double>(numbers[2]);
    for (size_t i = 3; i + 2 < numbers.size(); i += 3) {
        const int64_t token = numbers[i];
        const double count = double(numbers[i + 1]), bias = std::bit_cast<double>(numbers[i + 2]);
        const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), token);
        const ptrdiff_t at = found - tokens_.begin();
        const bool known = found != tokens_.end() && *found == token;
        const bool stays = count != 0 || bias != 0;
        if (known && stays) {
            counts_[size_t(at)] = count, biases_[size_t(at)] = bias;
        } else if (known) {
            tokens_.erase(found);
            counts_.erase(counts_.begin() + at), biases_.erase(biases_.begin() + at);
        } else if (stays) {
            tokens_.insert(found, token);
            counts_.insert(counts_.begin() + at, count);
            biases_.insert(biases_.begin() + at, bias);
        }
    }
}

size_t Tilt::rows(int64_t first, size_t count, std::vector<int32_t>& at) const {
    const auto place = [&](int64_t token) {
        return size_t(std::lower_bound(tokens_.begin(), tokens_.end(), token) - tokens_.begin());
    };
    const size_t begin = place(first);
    at.resize(place(first + int64_t(count)) - begin);
    for (size_t i = 0; i < at.size(); ++i) at[i] = int32_t(tokens_[begin + i] - first);
    return begin;
}

void Tilt::apply(size_t begin, std::span<double> logits) const {
    const double *counts = counts_.data() + begin, *biases = biases_.data() + begin;
    for (size_t i = 0; i < logits.size(); ++i) {
        const double old = logits[i] + biases[i];
        const double divided = old < 0 ? old * repetition_ : old / repetition_;
        const double lowered = divided - (presence_ + frequency_ * counts[i]);
        logits[i] = counts[i] > 0 ? lowered : old;
    }
}

}  // namespace mpsplit
