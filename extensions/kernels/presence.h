// Whether a helper has a core that nobody else wants.
//
// Helpers run at the lowest priority: one that answers at once, for some time, has a core to
// itself, and one that lets others wait has none. So a helper that is waited for, or asked in vain,
// for more than a millisecond is gone. It is only pinged from then on, which costs nothing, until
// it has answered every ping in time for a while: 20 times as long as was lost, and 4 ms at least.
// (What holds a machine up lets it wait too, for some tenths of a millisecond, many times a
// second.) Time is the time of work: a pause of an hour says nothing about the cores.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mpsplit {

class Presence {
  public:
    bool here() const { return here_; }

    // It has come when it was asked, and was waited for so long, or it has answered a ping.
    void answered(int64_t now, int64_t waited) {
        answered_at_ = now;
        if (waited > in_time)
            gone(now, waited);
        else
            here_ = here_ || now - gone_at_ >= answers_for_;
    }
    // It was asked, or pinged, and has not answered yet.
    void silent(int64_t now) {
        if (now - answered_at_ <= in_time) return;
        if (here_)
            gone(now, 0);
        else
            gone_at_ = answered_at_ = now;
    }

  private:
    static constexpr int64_t ms = 1'000'000, in_time = ms, shortest = 4 * ms, longest = 2000 * ms;

    void gone(int64_t now, int64_t lost) {
        answers_for_ = std::clamp(20 * lost, shortest, longest);
        gone_at_ = answered_at_ = now;
        here_ = false;
    }

    bool here_ = true;
    int64_t answered_at_ = 0, gone_at_ = 0, answers_for_ = 0;
};

}  // namespace mpsplit
