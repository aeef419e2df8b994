#include "sums.h"

#include <algorithm>
#include <cmath>

#include "exp2_below_0.h"
#include "orders.h"

namespace mpsplit {

namespace {

// Sums of exp((x - best) / temperature), in lanes. A product is good enough for a sum.
class Weights {
  public:
    Weights(double temperature, double best) : cold_(log2_e / temperature), best_(best) {}

    template <typename Logit>
    void add(std::span<const Logit> x) {
        size_t i = 0;
        for (; i + lanes <= x.size(); i += lanes)
            for (size_t lane = 0; lane < lanes; ++lane)
                sums_[lane] += exp2_below_0((x[i + lane] - best_) * cold_);
        for (; i < x.size(); ++i) sums_[0] += exp2_below_0((x[i] - best_) * cold_);
    }
    double sum() const {
        double sum = 0;
        for (const double part : sums_) sum += part;
        return sum;
    }

  private:
    static constexpr size_t lanes = 16;
    double cold_, best_, sums_[lanes] = {};
};

// Stretches of at most so many rows whose runs may count: where the largest of a run is less than
// 2e-15 of the best, a whole vocabulary of them is less than 2e-10 of it.
template <typename Add>
void stretches(const Seen& seen, double temperature, size_t begin, size_t end, size_t most,
               Add add) {
    const int32_t least = key_of(float(seen.best - 50 / log2_e * temperature));
    const auto counts = [&](size_t row) { return seen.runs[row / run] > least; };
    for (size_t row = begin; row < end;) {
        const size_t from = row;
        while (row < end && row - from < most && counts(row)) row += run;
        if (row > from) add(seen.plain.subspan(from, std::min(row, end) - from));
        while (row < end && !counts(row)) row += run;
    }
}

// In floats, of so few that roundings do not add up; `limit` and above it is left out.
float rough_sum(std::span<const float> x, float best, float cold, float limit) {
    constexpr size_t lanes = 16;
    float sums[lanes] = {};
    const auto weight = [=](float each) {
        return exp2_below_0(((each < limit ? each : never) - best) * cold);
    };
    size_t i = 0;
    for (; i + lanes <= x.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane) sums[lane] += weight(x[i + lane]);
    for (; i < x.size(); ++i) sums[0] += weight(x[i]);
    float sum = 0;
    for (const float each : sums) sum += each;
    return sum;
}

constexpr size_t few = 1024;

}  // namespace

double sum_of(const Seen& seen, double temperature, size_t begin, size_t end,
              std::span<const double> tilted) {
    Weights weights(temperature, seen.best);
    stretches(seen, temperature, begin, end, end,
              [&](std::span<const float> x) { weights.add(x); });
    weights.add(tilted);
    return weights.sum();
}

double log_sum(const Seen& seen, double temperature) {
    const double sum = sum_of(seen, temperature, 0, seen.plain.size(), seen.tilted);
    return seen.best / temperature + std::log(sum);
}

void add_block_sums(const Seen& seen, double temperature, std::vector<double>& sums) {
    auto tilted = seen.at.begin();
    for (size_t row = 0; row < seen.plain.size(); row += answer_block) {
        const size_t end = std::min(seen.plain.size(), row + answer_block);
        const auto first = tilted;
        tilted = std::lower_bound(first, seen.at.end(), int32_t(end));
        sums.push_back(
            sum_of(seen, temperature, row, end,
                   {seen.tilted.data() + (first - seen.at.begin()), size_t(tilted - first)}));
    }
}

double rough_sum_below(const Seen& seen, double temperature, float limit) {
    Weights tilted(temperature, seen.best);
    for (const double each : seen.tilted)
        if (each < double(limit)) tilted.add(std::span(&each, 1));
    const auto best = float(seen.best);
    double sum = 0;
    stretches(seen, temperature, 0, seen.plain.size(), few, [&](std::span<const float> x) {
        sum += double(rough_sum(x, best, float(log2_e / temperature), limit));
    });
    return sum * std::exp((double(best) - seen.best) / temperature) + tilted.sum();
}

double own_log_sum(const Seen& seen) {
    int32_t key = key_of(never);
    for (const int32_t each : seen.own_runs()) key = std::max(key, each);
    const float best = of_key(key);
    double sum = 0;
    for (size_t row = 0; row < seen.own.size(); row += few)
        sum += double(rough_sum(seen.own.subspan(row, std::min(few, seen.own.size() - row)), best,
                                float(log2_e), std::numeric_limits<float>::infinity()));
    return double(best) + std::log(sum);
}

}  // namespace mpsplit
