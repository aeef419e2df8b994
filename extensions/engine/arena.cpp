#include "arena.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

namespace mpsplit {
namespace {

constexpr int turns = 8;  // of placing again what did not fit

struct Placed {
    Lived value;
    size_t number;
    int64_t offset = 0;

    int64_t stop() const { return offset + value.bytes; }
    bool beside(const Placed& other) const {
        return value.first <= other.value.last && other.value.first <= value.last;
    }
};
using Placing = std::vector<Placed>;

// What decides who is placed first: the largest; the first that is made; what lives longest; what
// takes most bytes of most steps.
using Key = std::array<int64_t, 3>;
constexpr Key (*orders[])(const Lived&) = {
    [](const Lived& v) { return Key{-v.bytes, v.first}; },
    [](const Lived& v) { return Key{v.first, -v.bytes}; },
    [](const Lived& v) { return Key{v.first - v.last, -v.bytes, v.first}; },
    [](const Lived& v) { return Key{(v.first - v.last - 1) * v.bytes, v.first}; },
};

int64_t stop_of(const Placing& placing) {
    int64_t stop = 0;
    for (const Placed& placed : placing) stop = std::max(stop, placed.stop());
    return stop;
}

// The largest sum of what lives at once: no arena is smaller.
int64_t largest_sum(const std::vector<Lived>& values) {
    std::map<int, int64_t> changes;
    for (const Lived& value : values)
        changes[value.first] += value.bytes, changes[value.last + 1] -= value.bytes;
    int64_t now = 0, most = 0;
    for (const auto& [step, change] : changes) most = std::max(most, now += change);
    return most;
}

// Each into the smallest gap that is long enough; behind all, where there is none.
void place(Placing& values) {
    std::vector<const Placed*> by_offset;
    for (Placed& value : values) {
        int64_t stop = 0, best = -1, smallest = 0;
        for (const Placed* other : by_offset) {
            if (!value.beside(*other)) continue;
            const int64_t gap = other->offset - stop;
            if (gap >= value.value.bytes && (best < 0 || gap < smallest))
                best = stop, smallest = gap;
            stop = std::max(stop, other->stop());
        }
        value.offset = best < 0 ? stop : best;
        const auto behind = std::upper_bound(
            by_offset.begin(), by_offset.end(), value.offset,
            [](int64_t offset, const Placed* other) { return offset < other->offset; });
        by_offset.insert(behind, &value);
    }
}

// The best of a few turns, in each of which what did not fit below the bound is placed first.
Placing moved_forward(Placing values, int64_t bound) {
    place(values);
    Placing best = values;
    for (int turn = 0; turn < turns && stop_of(best) > bound; turn++) {
        std::stable_partition(values.begin(), values.end(),
                              [&](const Placed& value) { return value.stop() > bound; });
        place(values);
        if (stop_of(values) < stop_of(best)) best = values;
    }
    return best;
}

}  // namespace

ArenaPlan plan_arena(const std::vector<Lived>& values) {
    const int64_t bound = largest_sum(values);
    Placing best;
    for (const auto order : orders) {
        Placing tried;
        for (const Lived& value : values) tried.push_back({value, tried.size()});
        std::stable_sort(tried.begin(), tried.end(), [&](const Placed& a, const Placed& b) {
            return order(a.value) < order(b.value);
        });
        tried = moved_forward(std::move(tried), bound);
        if (best.empty() || stop_of(tried) < stop_of(best)) best = std::move(tried);
        if (stop_of(best) == bound) break;
    }
    ArenaPlan plan = {std::vector<int64_t>(values.size()), stop_of(best)};
    for (const Placed& placed : best) plan.offsets[placed.number] = placed.offset;
    return plan;
}

}  // namespace mpsplit
