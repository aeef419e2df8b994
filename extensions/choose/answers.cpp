#include "answers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "exp2_below_0.h"
#include "rows_above.h"

namespace mpsplit {

namespace {

constexpr float never = -std::numeric_limits<float>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double log2_e = 1.4426950408889634;

// Whole numbers in the order of floats, and back: the largest of many is quicker to find.
int32_t key_of(float x) {
    const auto bits = std::bit_cast<int32_t>(x);
    return bits ^ (bits >> 31 & 0x7fffffff);
}
float of_key(int32_t key) { return std::bit_cast<float>(key ^ (key >> 31 & 0x7fffffff)); }

// The key of the largest of each run of so many rows.
constexpr size_t run = 64;
void largest_of_runs(std::span<const float> x, std::vector<int32_t>& runs) {
    runs.resize((x.size() + run - 1) / run);
    const auto largest = [](const float* row, size_t count) {
        int32_t best = std::numeric_limits<int32_t>::min();
        for (size_t i = 0; i < count; ++i) best = std::max(best, key_of(row[i]));
        return best;
    };
    const size_t whole = x.size() / run;
    for (size_t i = 0; i < whole; ++i) runs[i] = largest(x.data() + i * run, run);
    if (whole < runs.size()) runs[whole] = largest(x.data() + whole * run, x.size() - whole * run);
}

// The `count` largest of the floats, by their runs, and of the others, in descending order. The
// count-th of the runs is no more than the count-th of all, so only runs that reach it are looked
// into. -inf is told where there is nothing else, and then of no row in particular.
void largest_into(std::span<const float> x, const std::vector<int32_t>& runs,
                  std::span<const int32_t> at, std::span<const double> others, size_t count,
                  std::vector<Answers::Candidate>& found) {
    found.clear();
    if (!count) return;
    int32_t key = key_of(std::numeric_limits<float>::lowest());
    if (count <= runs.size()) {
        static thread_local std::vector<int32_t> order;
        order = runs;
        const auto last = order.begin() + ptrdiff_t(count - 1);
        std::nth_element(order.begin(), last, order.end(), std::greater<>());
        key = std::max(key, *last);
    }
    const float reach = of_key(key);
    for (size_t i = 0; i < runs.size(); ++i)
        if (runs[i] >= key)
            for (size_t row = i * run; row < std::min(x.size(), (i + 1) * run); ++row)
                if (x[row] >= reach) found.push_back({x[row], int64_t(row)});
    for (size_t i = 0; i < at.size(); ++i)
        if (others[i] >= double(reach)) found.push_back({others[i], at[i]});
    if (found.size() > count) {
        std::nth_element(found.begin(), found.begin() + ptrdiff_t(count), found.end());
        found.resize(count);
    }
    std::sort(found.begin(), found.end());
    found.resize(count, {double(never), 0});
}

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
    // Whether so many as a vocabulary has, no larger than this, are less than 2e-10 of the best.
    bool nothing(float largest) const { return !((double(largest) - best_) * cold_ > -50); }
    double sum() const {
        double sum = 0;
        for (const double part : sums_) sum += part;
        return sum;
    }

  private:
    static constexpr size_t lanes = 16;
    double cold_, best_, sums_[lanes] = {};
};

// The log of the sum of exp(x), where `best` is the largest: that one counts 1 exactly, so floats
// tell the log of its probability to 1e-6 of itself.
double log_sum(std::span<const float> x, float best) {
    constexpr size_t lanes = 64, rows = 1024;
    double sum = 0;
    for (size_t start = 0; start < x.size(); start += rows) {
        const auto part = x.subspan(start, std::min(rows, x.size() - start));
        float sums[lanes] = {};
        size_t i = 0;
        for (; i + lanes <= part.size(); i += lanes)
            for (size_t lane = 0; lane < lanes; ++lane)
                sums[lane] += exp2_below_0((part[i + lane] - best) * float(log2_e));
        for (; i < part.size(); ++i) sums[0] += exp2_below_0((part[i] - best) * float(log2_e));
        for (const float each : sums) sum += double(each);
    }
    return double(best) + std::log(sum);
}

}  // namespace

void Answers::tilt(int64_t slot, bool fresh, std::span<const int64_t> changes) {
    if (fresh) tilts_[slot] = {};
    tilts_[slot].change(changes);
}

void Answers::mask(int64_t slot, std::span<const int64_t> bits) {
    masks_[slot].assign(bits.begin(), bits.end());
}

std::span<const double> Answers::answer(std::span<const float> logits, int64_t slot,
                                        const Wish& wish) {
    message_.clear();
    switch (wish.wanted) {
        case cells_wanted:
            see(logits, first_, slot, wish);
            count_cells(slot, wish.temperature, wish.start, wish.count);
            break;
        case cell_wanted: cell(logits, slot, wish); break;
        case span_wanted: span(logits, slot, wish); break;
        default:
            see(logits, first_, slot, wish);
            survey();
            if (wish.wanted == blocks_wanted)
                blocks(wish.temperature);
            else if (wish.wanted < wide_wanted)
                wide(slot, wish);
            else
                few(wish);
            if (wish.likely >= 0) own(size_t(wish.likely));
    }
    return message_;
}

void Answers::see(std::span<const float> logits, int64_t first, int64_t slot, const Wish& wish) {
    logits_ = plain_ = logits;
    at_.clear(), tilted_.clear();
    if (!wish.changed) return;
    changed_.resize(logits.size());
    if (wish.changed & by_mask)
        allow(first, masks_[slot]);
    else
        std::copy(logits.begin(), logits.end(), changed_.begin());
    plain_ = changed_;
    if (!(wish.changed & by_tilt)) return;
    tilts_[slot].apply(logits, first, at_, tilted_);
    for (size_t i = 0; i < at_.size(); ++i) {
        float& plain = changed_[size_t(at_[i])];
        tilted_[i] = plain == never ? double(never) : tilted_[i];
        plain = never;
    }
}

// Logits of tokens with a bit, -inf for the others.
void Answers::allow(int64_t first, std::span<const int64_t> bits) {
    const auto word_of = [&](int64_t id) {
        return size_t(id / 64) < bits.size() ? uint64_t(bits[size_t(id / 64)]) : 0;
    };
    for (size_t row = 0; row < logits_.size();) {
        const int64_t id = first + int64_t(row);
        const size_t count = std::min(size_t(64 - id % 64), logits_.size() - row);
        const uint64_t allowed = word_of(id) >> (id % 64);
        const float* from = logits_.data() + row;
        float* to = changed_.data() + row;
        if (count == 64)
            for (size_t i = 0; i < 64; ++i) to[i] = allowed >> i & 1 ? from[i] : never;
        else
            for (size_t i = 0; i < count; ++i) to[i] = allowed >> i & 1 ? from[i] : never;
        row += count;
    }
}

void Answers::survey() {
    largest_of_runs(plain_, runs_);
    int32_t key = key_of(never);
    for (const int32_t each : runs_) key = std::max(key, each);
    best_ = of_key(key);
    constexpr size_t lanes = 16;
    double best[lanes];
    std::fill_n(best, lanes, best_);
    size_t i = 0;
    for (; i + lanes <= tilted_.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane)
            best[lane] = tilted_[i + lane] > best[lane] ? tilted_[i + lane] : best[lane];
    for (; i < tilted_.size(); ++i) best[0] = tilted_[i] > best[0] ? tilted_[i] : best[0];
    best_ = *std::max_element(best, best + lanes);
}

void Answers::few(const Wish& wish) {
    message_.push_back(wish.temperature > 0 ? rest(wish.temperature) : nan);
    const size_t rows = std::min(size_t(wish.wanted), logits_.size());
    likeliest(rows);
    if (wish.likely >= 0)
        for (const Candidate& each : found_) message_.push_back(logits_[size_t(each.row)]);
}

void Answers::likeliest(size_t count) {
    largest_into(plain_, runs_, at_, tilted_, count, found_);
    tell_found();
}

void Answers::tell_found() {
    for (const Candidate& each : found_) message_.push_back(each.logit);
    for (const Candidate& each : found_) message_.push_back(double(first_ + each.row));
}

void Answers::own(size_t count) {
    if (plain_.data() != logits_.data()) {
        plain_ = logits_;
        at_.clear(), tilted_.clear();
        survey();
    }
    message_.push_back(log_sum(logits_, float(best_)));
    likeliest(std::min(count, logits_.size()));
}

// Of the rows from one to another, where a run begins, and of as many of the tilted.
double Answers::weight(double temperature, size_t begin, size_t end,
                       std::span<const double> tilted) const {
    Weights weights(temperature, best_);
    const auto counts = [&](size_t row) { return !weights.nothing(of_key(runs_[row / run])); };
    for (size_t row = begin; row < end;) {  // stretches of runs that count
        const size_t from = row;
        while (row < end && counts(row)) row += run;
        if (row > from) weights.add(plain_.subspan(from, std::min(row, end) - from));
        while (row < end && !counts(row)) row += run;
    }
    weights.add(tilted);
    return weights.sum();
}

double Answers::rest(double temperature) const {
    return best_ / temperature + std::log(weight(temperature, 0, plain_.size(), tilted_));
}

void Answers::blocks(double temperature) {
    message_.push_back(best_ / temperature);
    auto tilted = at_.begin();
    for (size_t row = 0; row < plain_.size(); row += answer_block) {
        const size_t end = std::min(plain_.size(), row + answer_block);
        const auto first = tilted;
        tilted = std::lower_bound(first, at_.end(), int32_t(end));
        message_.push_back(
            weight(temperature, row, end,
                   {tilted_.data() + (first - at_.begin()), size_t(tilted - first)}));
    }
}

void Answers::wide(int64_t slot, const Wish& wish) {
    const double heat = wish.temperature;
    message_.push_back(rest(heat));
    message_.push_back(best_);
    const double top = std::floor(best_ / heat * answer_grain);
    count_cells(slot, heat, std::abs(top) < 1e15 ? int64_t(top) : 0, wide_wanted - wish.wanted);
}

void Answers::count_cells(int64_t slot, double heat, int64_t top, int64_t count) {
    const double ceiling = double(top + 1) / answer_grain;
    Near& near = near_[slot];
    near.top = top;
    find(near, float((double(top - count + 1) - 0.01) * heat / answer_grain));
    const size_t found = near.rows.size();
    near.cells.resize(found);
    weights_.resize(found);
    for (size_t i = 0; i < found; ++i) {
        const double scaled = near.logits[i] / heat;
        const double cell = double(top) - std::floor(scaled * answer_grain);
        near.cells[i] = cell >= 0 && cell < double(count) ? int32_t(cell) : -1;
        weights_[i] = exp2_below_0((scaled - ceiling) * log2_e);
    }
    const size_t counts = message_.size(), sums = counts + size_t(count);
    message_.resize(sums + size_t(count));
    for (size_t i = 0; i < found; ++i) {
        if (near.cells[i] < 0) continue;
        message_[counts + size_t(near.cells[i])] += 1;
        message_[sums + size_t(near.cells[i])] += weights_[i];
    }
}

void Answers::find(Near& near, float lowest) {
    rows_.resize(plain_.size() + 16);
    const size_t plain = rows_above(plain_, lowest, rows_.data());
    near.rows.assign(rows_.begin(), rows_.begin() + ptrdiff_t(plain));
    near.logits.resize(plain);
    for (size_t i = 0; i < plain; ++i) near.logits[i] = double(plain_[size_t(rows_[i])]);
    for (size_t i = 0; i < at_.size(); ++i) {
        if (!(tilted_[i] >= double(lowest))) continue;
        near.rows.push_back(at_[i]);
        near.logits.push_back(tilted_[i]);
    }
}

void Answers::cell(std::span<const float> logits, int64_t slot, const Wish& wish) {
    const Near& near = near_[slot];
    const int64_t which = near.top - (wish.start - wish.count);
    found_.clear();
    if (which < 0) return;
    for (size_t i = 0; i < near.cells.size(); ++i)
        if (near.cells[i] == which) found_.push_back({near.logits[i], near.rows[i]});
    std::sort(found_.begin(), found_.end());
    tell_found();
    if (wish.likely >= 0)
        for (const Candidate& each : found_) message_.push_back(logits[size_t(each.row)]);
}

void Answers::span(std::span<const float> logits, int64_t slot, const Wish& wish) {
    const auto begin = std::clamp<int64_t>(wish.start - first_, 0, int64_t(logits.size()));
    const auto end =
        std::clamp<int64_t>(wish.start - first_ + wish.count, begin, int64_t(logits.size()));
    see(logits.subspan(size_t(begin), size_t(end - begin)), first_ + begin, slot, wish);
    message_.assign(plain_.begin(), plain_.end());
    for (size_t i = 0; i < at_.size(); ++i) message_[size_t(at_[i])] = tilted_[i];
    if (wish.likely >= 0) message_.insert(message_.end(), logits_.begin(), logits_.end());
}

}  // namespace mpsplit
