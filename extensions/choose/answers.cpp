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
    Seat& seat = seats_[0];
    seat.message.clear();
    switch (wish.wanted) {
        case cells_wanted:
            see(seat, logits, first_, slot, wish);
            near_[slot].count(seat.seen, wish.temperature, wish.start, wish.count);
            seat.tell_cells(near_[slot]);
            break;
        case cell_wanted: cell(seat, logits, slot, wish); break;
        case span_wanted: span(seat, logits, slot, wish); break;
        default:
            see(seat, logits, first_, slot, wish);
            if (wish.wanted == blocks_wanted) {
                seat.message.push_back(seat.seen.best / wish.temperature);
                add_block_sums(seat.seen, wish.temperature, seat.message);
            } else if (wish.wanted < wide_wanted) {
                seat.wide(wish, near_[slot]);
            } else {
                seat.few(wish, first_);
            }
            if (wish.likely >= 0) seat.own(size_t(wish.likely), first_);
    }
    return seat.message;
}

std::vector<std::vector<double>> Answers::draws(std::span<const Asked> asked) {
    for (const Asked& each : asked)  // threads only look them up
        near_[each.slot], tilts_[each.slot], masks_[each.slot];
    std::vector<std::vector<double>> messages(asked.size());
    const auto draw_one = [&](int part, int seat) {
        messages[size_t(part)] = draw(seats_[size_t(seat)], asked[size_t(part)]);
    };
    if (asked.size() == 1) {
        draw_one(0, 0);
    } else {
        if (!pool_) pool_.emplace(int(seats_.size()));
        pool_->parallel(int(asked.size()), draw_one);
    }
    return messages;
}

std::vector<double> Answers::draw(Seat& seat, const Asked& asked) {
    const auto& [logits, slot, wish, how] = asked;
    seat.message.clear();
    see(seat, logits, first_, slot, wish);
    const int64_t cells = wish.wanted < wide_wanted ? wide_wanted - wish.wanted : 0;
    const Drawn one = drawn(seat.seen, near_.at(slot), how, cells);
    if (one.row < 0) return {};
    const double own = double(logits[size_t(one.row)]);
    seat.add(std::array{double(first_ + one.row), own, double(one.wide)});
    if (wish.likely >= 0) seat.own(size_t(wish.likely), first_);
    return seat.message;
}

void Answers::see(Seat& seat, std::span<const float> logits, int64_t first, int64_t slot,
                  const Wish& wish) const {
    seat.seen.look(logits, first, wish.changed & by_tilt ? &tilts_.at(slot) : nullptr,
                   wish.changed & by_mask ? &masks_.at(slot) : nullptr, wish.likely >= 0);
}

void Answers::cell(Seat& seat, std::span<const float> logits, int64_t slot, const Wish& wish) {
    const Near& near = near_[slot];
    near.inside(near.top() - (wish.start - wish.count), seat.found);
    seat.tell_found(first_);
    if (wish.likely >= 0)
        for (const Candidate& each : seat.found) seat.message.push_back(logits[size_t(each.row)]);
}

void Answers::span(Seat& seat, std::span<const float> logits, int64_t slot,
                   const Wish& wish) const {
    const auto begin = std::clamp<int64_t>(wish.start - first_, 0, int64_t(logits.size()));
    const auto end =
        std::clamp<int64_t>(wish.start - first_ + wish.count, begin, int64_t(logits.size()));
    see(seat, logits.subspan(size_t(begin), size_t(end - begin)), first_ + begin, slot, wish);
    const Seen& seen = seat.seen;
    seat.message.assign(seen.plain.begin(), seen.plain.end());
    for (size_t i = 0; i < seen.at.size(); ++i) seat.message[size_t(seen.at[i])] = seen.tilted[i];
    if (wish.likely >= 0) seat.message.insert(seat.message.end(), seen.own.begin(), seen.own.end());
}

void Answers::Seat::few(const Wish& wish, int64_t first) {
    const double heat = wish.temperature;
    message.push_back(heat > 0 ? log_sum(seen, heat) : std::numeric_limits<double>::quiet_NaN());
    seen.likeliest(size_t(wish.wanted), found);
    tell_found(first);
    if (wish.likely >= 0)
        for (const Candidate& each : found) message.push_back(seen.own[size_t(each.row)]);
}

void Answers::Seat::wide(const Wish& wish, Near& near) {
    const double heat = wish.temperature;
    add(std::array{log_sum(seen, heat), seen.best});
    near.count(seen, heat, cell_of(seen.best / heat), wide_wanted - wish.wanted);
    tell_cells(near);
}

void Answers::Seat::own(size_t count, int64_t first) {
    message.push_back(own_log_sum(seen));
    seen.own_likeliest(count, found);
    tell_found(first);
}

void Answers::Seat::tell_found(int64_t first) {
    for (const Candidate& each : found) message.push_back(each.logit);
    for (const Candidate& each : found) message.push_back(double(first + each.row));
}

void Answers::Seat::tell_cells(const Near& near) {
    add(near.counts());
    add(near.sums());
}

void Answers::Seat::add(std::span<const double> numbers) {
    message.insert(message.end(), numbers.begin(), numbers.end());
}

}  // namespace mpsplit
