// When a helper is asked, and when it is left out.
//
// Where another process wants a helper's core too, the scheduler takes it away every few
// milliseconds, and whoever waits for the helper's part waits as long. Nothing is gained then: the
// scheduler also takes from the caller what the helper gets. Such waits take a third of the time
// and more. On a core of one's own they take a hundredth or two: something always runs for some
// milliseconds. So a helper may be waited for a tenth of the time, with a little of it in advance.
// What is more than that leaves it out for a hundred times as long, and twice as long as before
// where it had just come back. Time is the time of work: a pause of an hour says nothing about the
// cores.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mpsplit {

class HelperTurns {
  public:
    bool asked(int64_t now) const { return now >= back_at_; }

    // So much was lost until now because threads were on no core.
    void lost(int64_t now, int64_t ns) {
        allowed_ = std::min(allowed_ + (now - counted_at_) / 10, in_advance) - ns;
        counted_at_ = now;
        if (allowed_ >= 0) return;
        const bool at_once = back_at_ && now - back_at_ < calm;
        left_out_ = std::max(100 * ns, at_once ? std::min(2 * left_out_, longest) : shortest);
        back_at_ = counted_at_ = now + left_out_;
        allowed_ = 0;
    }

  private:
    static constexpr int64_t ms = 1'000'000, in_advance = 20 * ms, calm = 1000 * ms,
                             shortest = 100 * ms, longest = 2000 * ms;

    int64_t allowed_ = in_advance, counted_at_ = 0;  // of waiting, as it was then
    int64_t back_at_ = 0, left_out_ = 0;             // 0: it was never left out
};

}  // namespace mpsplit
