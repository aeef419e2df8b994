// A follower over an engine that is a formula. Python's lead talks to it in tests/extensions/test_rank.py.
//   follow_test FIRST_ROW ROWS
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "follow.h"
#include "join.h"

using namespace mpsplit;

namespace {

class Table final : public Slice {
  public:
    Table(int64_t first, int64_t rows) : first_(first), logits_(size_t(rows)) {}

    // The logit of id is the fraction of (sum of the tokens + 1) * (id + 1) * 0.618, times 8, so that no two are equal.
    std::span<const float> step(std::span<const int64_t> tokens, int64_t position) override {
        if (position == 0) sum_ = 0;
        sum_ = std::accumulate(tokens.begin(), tokens.end(), sum_);
        for (size_t i = 0; i < logits_.size(); ++i) {
            const double x = double(sum_ + 1) * double(first_ + int64_t(i) + 1) * 0.618;
            logits_[i] = float((x - double(int64_t(x))) * 8);
        }
        return logits_;
    }

    void largest(int count, float* values, int64_t* ids) override {
        std::vector<int64_t> order(logits_.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logits_[size_t(a)] > logits_[size_t(b)]; });
        for (int i = 0; i < count; ++i) values[i] = logits_[size_t(order[size_t(i)])], ids[i] = first_ + order[size_t(i)];
    }

    int64_t first_row() const override { return first_; }
    int64_t rows() const override { return int64_t(logits_.size()); }
    uint64_t bytes_sent() const override { return 0; }
    double seconds_between_ranks() const override { return 0; }

  private:
    int64_t first_, sum_ = 0;
    std::vector<float> logits_;
};

} // namespace

int main(int, char** words) {
    try {
        const auto world = join(place()).world;
        Table table(std::atoll(words[1]), std::atoll(words[2]));
        greet(table, *world);
        follow(table, *world);
    } catch (const std::exception& wrong) {
        std::fprintf(stderr, "%s\n", wrong.what());
        return 2;
    }
}
