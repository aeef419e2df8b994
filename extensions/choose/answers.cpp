#include "answers.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sums.h"

namespace mpsplit {

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
            near_[slot].count(seen_, wish.temperature, wish.start, wish.count);
            tell_cells(near_[slot]);
            break;
        case cell_wanted: cell(logits, slot, wish); break;
        case span_wanted: span(logits, slot, wish); break;
        default:
            see(logits, first_, slot, wish);
            if (wish.wanted == blocks_wanted) {
                message_.push_back(seen_.best / wish.temperature);
                add_block_sums(seen_, wish.temperature, message_);
            } else if (wish.wanted < wide_wanted) {
                wide(slot, wish);
            } else {
                few(wish);
            }
            if (wish.likely >= 0) own(size_t(wish.likely));
    }
    return message_;
}

std::span<const double> Answers::draw(std::span<const float> logits, int64_t slot, const Wish& wish,
                                      const Draw& draw) {
    message_.clear();
    see(logits, first_, slot, wish);
    const int64_t cells = wish.wanted < wide_wanted ? wide_wanted - wish.wanted : 0;
    const Drawn one = drawn(seen_, near_[slot], draw, cells);
    if (one.row < 0) return {};
    add(std::array{double(first_ + one.row), double(logits[size_t(one.row)]), double(one.wide)});
    if (wish.likely >= 0) own(size_t(wish.likely));
    return message_;
}

void Answers::see(std::span<const float> logits, int64_t first, int64_t slot, const Wish& wish) {
    seen_.look(logits, first, wish.changed & by_tilt ? &tilts_[slot] : nullptr,
               wish.changed & by_mask ? &masks_[slot] : nullptr, wish.likely >= 0);
}

void Answers::few(const Wish& wish) {
    const double heat = wish.temperature;
    message_.push_back(heat > 0 ? log_sum(seen_, heat) : std::numeric_limits<double>::quiet_NaN());
    seen_.likeliest(size_t(wish.wanted), found_);
    tell_found();
    if (wish.likely >= 0)
        for (const Candidate& each : found_) message_.push_back(seen_.own[size_t(each.row)]);
}

void Answers::wide(int64_t slot, const Wish& wish) {
    const double heat = wish.temperature;
    add(std::array{log_sum(seen_, heat), seen_.best});
    near_[slot].count(seen_, heat, cell_of(seen_.best / heat), wide_wanted - wish.wanted);
    tell_cells(near_[slot]);
}

void Answers::own(size_t count) {
    message_.push_back(own_log_sum(seen_));
    seen_.own_likeliest(count, found_);
    tell_found();
}

void Answers::cell(std::span<const float> logits, int64_t slot, const Wish& wish) {
    const Near& near = near_[slot];
    near.inside(near.top() - (wish.start - wish.count), found_);
    tell_found();
    if (wish.likely >= 0)
        for (const Candidate& each : found_) message_.push_back(logits[size_t(each.row)]);
}

void Answers::span(std::span<const float> logits, int64_t slot, const Wish& wish) {
    const auto begin = std::clamp<int64_t>(wish.start - first_, 0, int64_t(logits.size()));
    const auto end =
        std::clamp<int64_t>(wish.start - first_ + wish.count, begin, int64_t(logits.size()));
    see(logits.subspan(size_t(begin), size_t(end - begin)), first_ + begin, slot, wish);
    message_.assign(seen_.plain.begin(), seen_.plain.end());
    for (size_t i = 0; i < seen_.at.size(); ++i) message_[size_t(seen_.at[i])] = seen_.tilted[i];
    if (wish.likely >= 0) message_.insert(message_.end(), seen_.own.begin(), seen_.own.end());
}

void Answers::tell_found() {
    for (const Candidate& each : found_) message_.push_back(each.logit);
    for (const Candidate& each : found_) message_.push_back(double(first_ + each.row));
}

void Answers::tell_cells(const Near& near) {
    add(near.counts());
    add(near.sums());
}

void Answers::add(std::span<const double> numbers) {
    message_.insert(message_.end(), numbers.begin(), numbers.end());
}

}  // namespace mpsplit
