#include "answers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exponential_double.h"

namespace mpsplit {

namespace {

constexpr float never = -std::numeric_limits<float>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

struct Candidate {
    double logit;
    int64_t row;
    bool operator<(const Candidate& other) const {  // the likelier first
        return logit != other.logit ? logit > other.logit : row < other.row;
    }
};

float largest_of(std::span<const float> x) {
    constexpr size_t lanes = 64;
    float best[lanes];
    std::fill_n(best, lanes, never);
    size_t i = 0;
    for (; i + lanes <= x.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane)
            best[lane] = x[i + lane] > best[lane] ? x[i + lane] : best[lane];
    for (; i < x.size(); ++i) best[0] = x[i] > best[0] ? x[i] : best[0];
    return *std::max_element(best, best + lanes);
}

// The `count` largest of the floats and of the others, where fewer than all are wanted of very
// many. Of each column (every stride-th) the largest: the count-th of these is no more than the
// count-th of all, so only columns that reach it are looked into.
void largest_into(std::span<const float> x, std::span<const int32_t> at,
                  std::span<const double> others, size_t count, std::vector<Candidate>& found) {
    found.clear();
    size_t stride = 1024;
    while (stride < 4 * count) stride *= 2;
    float reach = never;
    static thread_local std::vector<float> best, order;
    if (stride * 2 <= x.size()) {
        best.assign(x.begin(), x.begin() + ptrdiff_t(stride));
        size_t i = stride;
        for (; i + stride <= x.size(); i += stride)
            for (size_t j = 0; j < stride; ++j) best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
        for (size_t j = 0; i + j < x.size(); ++j) best[j] = std::max(best[j], x[i + j]);
        order = best;
        std::nth_element(order.begin(), order.begin() + ptrdiff_t(count - 1), order.end(),
                         std::greater<>());
        reach = order[count - 1];
        for (size_t j = 0; j < stride; ++j)
            if (best[j] >= reach)
                for (size_t row = j; row < x.size(); row += stride)
                    if (x[row] >= reach) found.push_back({x[row], int64_t(row)});
    } else {
        for (size_t row = 0; row < x.size(); ++row) found.push_back({x[row], int64_t(row)});
    }
    for (size_t i = 0; i < at.size(); ++i)
        if (others[i] >= reach) found.push_back({others[i], at[i]});
    if (found.size() > count) {
        std::nth_element(found.begin(), found.begin() + ptrdiff_t(count), found.end());
        found.resize(count);
    }
    std::sort(found.begin(), found.end());
}

// exp(x / temperature - top) of all, summed in lanes. A product is good enough for a sum.
double weight_of(std::span<const float> x, double temperature, double top) {
    constexpr size_t lanes = 16;
    const double cold = 1 / temperature;
    double sums[lanes] = {};
    size_t i = 0;
    for (; i + lanes <= x.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane)
            sums[lane] += exp_below_0(x[i + lane] * cold - top);
    for (; i < x.size(); ++i) sums[0] += exp_below_0(x[i] * cold - top);
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum;
}

double log_sum(std::span<const float> x, double temperature) {
    const double top = largest_of(x) / temperature;
    return top + std::log(weight_of(x, temperature, top));
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
    see(logits, slot, wish.changed);
    message_.clear();
    const bool own_too = wish.likely >= 0;
    switch (wish.wanted) {
        case cells_wanted: cells(wish.temperature, wish.start, wish.count); break;
        case cell_wanted: cell(wish.temperature, wish.start, wish.count, own_too); break;
        case span_wanted: span(wish.start, wish.count, own_too); break;
        case blocks_wanted: blocks(wish.temperature); break;
        default: {
            message_.push_back(nan);
            if (wish.temperature > 0) {
                sums(wish.temperature);
                double sum = 0;
                for (const double part : weights_) sum += part;
                message_[0] = top(wish.temperature) + std::log(sum);
            }
            const size_t rows = std::min(size_t(wish.wanted), logits.size());
            likeliest(rows);
            if (own_too)
                for (size_t i = 0; i < rows; ++i)
                    message_.push_back(logits[size_t(int64_t(message_[1 + rows + i]) - first_)]);
        }
    }
    if (own_too && wish.wanted >= blocks_wanted) own(size_t(wish.likely));
    return message_;
}

void Answers::see(std::span<const float> logits, int64_t slot, int64_t changed) {
    logits_ = plain_ = logits;
    at_.clear(), tilted_.clear();
    if (!changed) return;
    changed_.assign(logits.begin(), logits.end());
    if (changed & by_tilt) {
        tilts_[slot].apply(logits, first_, at_, tilted_);
        for (const int32_t row : at_) changed_[size_t(row)] = never;
    }
    if (changed & by_mask) {
        const std::vector<int64_t>& bits = masks_[slot];
        const auto allowed = [&](int64_t id) {
            return size_t(id / 64) < bits.size() &&
                   (uint64_t(bits[size_t(id / 64)]) >> (id % 64) & 1);
        };
        size_t row = 0;
        for (; row < logits.size() && (first_ + int64_t(row)) % 64; ++row)
            if (!allowed(first_ + int64_t(row))) changed_[row] = never;
        for (; row + 64 <= logits.size(); row += 64) {
            const size_t word = size_t(first_ + int64_t(row)) / 64;
            const uint64_t fine = word < bits.size() ? uint64_t(bits[word]) : 0;
            if (fine == ~uint64_t(0)) continue;
            for (size_t i = 0; i < 64; ++i)
                changed_[row + i] = fine >> i & 1 ? changed_[row + i] : never;
        }
        for (; row < logits.size(); ++row)
            if (!allowed(first_ + int64_t(row))) changed_[row] = never;
        for (size_t i = 0; i < at_.size(); ++i)
            if (!allowed(first_ + at_[i])) tilted_[i] = double(never);
    }
    plain_ = changed_;
}

double Answers::top(double temperature) const {
    double best = double(largest_of(plain_));
    for (const double x : tilted_) best = x > best ? x : best;
    return best / temperature;
}

void Answers::likeliest(size_t count) {
    static thread_local std::vector<Candidate> found;
    largest_into(plain_, at_, tilted_, count, found);
    for (const Candidate& each : found) message_.push_back(each.logit);
    for (const Candidate& each : found) message_.push_back(double(first_ + each.row));
}

void Answers::own(size_t count) {
    message_.push_back(log_sum(logits_, 1));
    if (!count) return;
    plain_ = logits_;
    at_.clear(), tilted_.clear();
    likeliest(std::min(count, logits_.size()));
}

void Answers::sums(double temperature) {
    const double best = top(temperature);
    weights_.clear();
    for (size_t row = 0; row < plain_.size(); row += answer_block)
        weights_.push_back(weight_of(
            plain_.subspan(row, std::min(answer_block, plain_.size() - row)), temperature, best));
    static thread_local std::vector<double> weights;
    weights.resize(tilted_.size());
    for (size_t i = 0; i < tilted_.size(); ++i)
        weights[i] = exp_below_0(tilted_[i] / temperature - best);
    for (size_t i = 0; i < tilted_.size(); ++i)
        weights_[size_t(at_[i]) / answer_block] += weights[i];
}

void Answers::blocks(double temperature) {
    message_.push_back(top(temperature));
    sums(temperature);
    message_.insert(message_.end(), weights_.begin(), weights_.end());
}

void Answers::cells(double temperature, int64_t top, int64_t count) {
    message_.assign(2 * size_t(count), 0);
    const double ceiling = double(top + 1) / answer_grain, lowest = double(top - count + 1);
    const auto add = [&](double x) {
        const double scaled = x / temperature, cell = std::floor(scaled * answer_grain);
        if (!(cell >= lowest && cell <= double(top))) return;
        const auto which = size_t(double(top) - cell);
        message_[which] += 1;
        message_[size_t(count) + which] += exp_below_0(scaled - ceiling);
    };
    for (const int32_t row : between((lowest - 0.01) * temperature / answer_grain, HUGE_VAL))
        add(plain_[size_t(row)]);
    for (const double x : tilted_) add(x);
}

// Rows of plain logits from one number to another, or a little beside.
std::span<const int32_t> Answers::between(double low, double high) {
    const auto from = float(low), to = float(high);
    rows_.resize(plain_.size() + 1);
    size_t count = 0;
    for (size_t row = 0; row < plain_.size(); ++row) {  // no branch that is guessed wrong
        rows_[count] = int32_t(row);
        count += (plain_[row] >= from) & (plain_[row] <= to);
    }
    return {rows_.data(), count};
}

void Answers::cell(double temperature, int64_t top, int64_t which, bool own) {
    static thread_local std::vector<Candidate> found;
    found.clear();
    const auto wanted = double(top - which);
    const auto add = [&](double x, int32_t row) {
        if (std::floor(x / temperature * answer_grain) == wanted) found.push_back({x, row});
    };
    const double width = temperature / answer_grain;
    for (const int32_t row : between((wanted - 0.01) * width, (wanted + 1.01) * width))
        add(plain_[size_t(row)], row);
    for (size_t i = 0; i < tilted_.size(); ++i) add(tilted_[i], at_[i]);
    for (const Candidate& each : found) message_.push_back(each.logit);
    for (const Candidate& each : found) message_.push_back(double(first_ + each.row));
    if (own)
        for (const Candidate& each : found) message_.push_back(logits_[size_t(each.row)]);
}

void Answers::span(int64_t from, int64_t count, bool own) {
    const auto begin = std::clamp<int64_t>(from - first_, 0, int64_t(plain_.size()));
    const auto end = std::clamp<int64_t>(from - first_ + count, begin, int64_t(plain_.size()));
    message_.assign(plain_.begin() + begin, plain_.begin() + end);
    for (size_t i = 0; i < tilted_.size(); ++i)
        if (at_[i] >= begin && at_[i] < end) message_[size_t(at_[i] - begin)] = tilted_[i];
    if (own) message_.insert(message_.end(), logits_.begin() + begin, logits_.begin() + end);
}

}  // namespace mpsplit
