#include "seen.h"

#include <algorithm>
#include <functional>

namespace mpsplit {

namespace {

int32_t largest(const float* x, size_t count) {
    const auto of = [x](size_t rows) {
        int32_t best = std::numeric_limits<int32_t>::min();
        for (size_t i = 0; i < rows; ++i) best = std::max(best, key_of(x[i]));
        return best;
    };
    return count == run ? of(run) : of(count);
}

// The bits of 64 tokens from one on, of those that have any.
uint64_t bits_from(const std::vector<int64_t>& mask, int64_t token) {
    const auto word = size_t(token / 64), shift = size_t(token % 64);
    const uint64_t low = word < mask.size() ? uint64_t(mask[word]) : 0;
    const uint64_t high = word + 1 < mask.size() ? uint64_t(mask[word + 1]) : 0;
    return shift ? low >> shift | high << (64 - shift) : low;
}

// Of at most 64 logits those whose token has a bit, -inf for the others.
void allow(const float* from, size_t count, uint64_t bits, float* to) {
    const uint32_t halves[] = {uint32_t(bits), uint32_t(bits >> 32)};
    for (const uint32_t half : halves) {
        if (count >= 32)
            for (uint32_t i = 0; i < 32; ++i) to[i] = half & (1u << i) ? from[i] : never;
        else
            for (uint32_t i = 0; i < count; ++i) to[i] = half & (1u << i) ? from[i] : never;
        from += 32, to += 32, count -= std::min(count, size_t(32));
    }
}

// The count-th largest of the runs is no more than the count-th of all, so only runs that reach it
// are looked into.
void largest_into(std::span<const float> x, const std::vector<int32_t>& runs,
                  std::span<const int32_t> at, std::span<const double> others, size_t count,
                  std::vector<Candidate>& found) {
    found.clear();
    count = std::min(count, x.size());
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

double largest_of(const std::vector<int32_t>& runs, const std::vector<double>& others) {
    int32_t key = key_of(never);
    for (const int32_t each : runs) key = std::max(key, each);
    constexpr size_t lanes = 16;
    double best[lanes];
    std::fill_n(best, lanes, double(of_key(key)));
    size_t i = 0;
    for (; i + lanes <= others.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane)
            best[lane] = others[i + lane] > best[lane] ? others[i + lane] : best[lane];
    for (; i < others.size(); ++i) best[0] = others[i] > best[0] ? others[i] : best[0];
    return *std::max_element(best, best + lanes);
}

}  // namespace

void Seen::look(std::span<const float> logits, int64_t first, const Tilt* tilt,
                const std::vector<int64_t>* mask, bool with_own) {
    own = plain = logits;
    at.clear(), tilted.clear();
    runs.resize((logits.size() + run - 1) / run);
    if (tilt || mask)
        change(first, tilt, mask, with_own);
    else
        for (size_t i = 0; i < runs.size(); ++i)
            runs[i] = largest(own.data() + i * run, std::min(run, own.size() - i * run));
    best = largest_of(runs, tilted);
}

void Seen::change(int64_t first, const Tilt* tilt, const std::vector<int64_t>* mask,
                  bool with_own) {
    changed_.resize(own.size());
    plain = changed_;
    own_runs_.resize(runs.size());
    const size_t begin = tilt ? tilt->rows(first, own.size(), at) : 0;
    tilted.resize(at.size());
    size_t next = 0;  // of the tilted
    for (size_t i = 0; i < runs.size(); ++i) {
        const size_t row = i * run, count = std::min(run, own.size() - row);
        const float* from = own.data() + row;
        float* to = changed_.data() + row;
        if (mask)
            allow(from, count, bits_from(*mask, first + int64_t(row)), to);
        else
            std::copy_n(from, count, to);
        if (with_own) own_runs_[i] = largest(from, count);
        runs[i] = mask || !with_own ? largest(to, count) : own_runs_[i];
        bool lost = false;  // the largest, to those that are tilted
        for (; next < at.size() && size_t(at[next]) < row + count; ++next) {
            float& each = changed_[size_t(at[next])];
            lost |= key_of(each) == runs[i];
            tilted[next] = each;
            each = never;
        }
        if (lost) runs[i] = largest(to, count);
    }
    if (tilt) tilt->apply(begin, tilted);
}

void Seen::likeliest(size_t count, std::vector<Candidate>& found) const {
    largest_into(plain, runs, at, tilted, count, found);
}

void Seen::own_likeliest(size_t count, std::vector<Candidate>& found) const {
    largest_into(own, own_runs(), {}, {}, count, found);
}

}  // namespace mpsplit
