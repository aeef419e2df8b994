// Who has died: between every two ranks one TCP connection that carries no data, and breaks when
// the rank at its end does.
//
// gloo now and then misses that a peer's connection has closed, and a rank that waits for a third
// one cannot see it at all. A rank that ends in good order says so, and is missed by nobody who
// does not wait for it; one that ends because it found another dead, or silent, tells which. Pulled
// cables and lost power are found by probes, within ten seconds. A rank whose wait takes long tells
// whom it waits for.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "comm.h"

namespace mpsplit {

constexpr std::chrono::milliseconds watch_tick{100};

class Watch {
  public:
    enum class Kind : int32_t { goodbye, lost, silent, waits_for, ended };
    struct Word {  // what a connection carries
        Kind kind;
        int32_t rank;
        int32_t length = 0;  // of the text that follows: why the rank has ended
    };

    // All ranks of `comm` together; it carries where they listen. `address`: this rank's, as
    // numbers. `tick` is called by a thread of its own, once a watch_tick.
    Watch(Comm& comm, const std::string& address, double timeout, std::function<void()> tick);
    ~Watch();
    Watch(const Watch&) = delete;

    int lost() const { return lost_; }      // the first rank known to have died, or -1
    int silent() const { return silent_; }  // the first that somebody gave up, or -1
    // The first that told why it ends, or -1; not one that tells it of another's death.
    int ended() const { return ended_; }
    const std::string& why() const { return why_; }        // once there is one
    bool has_left(int rank) const { return left_[rank]; }  // ended in good order
    int waits_for(int rank) const {
        return waits_for_[rank];
    }  // whom it has long waited for, or -1
    void tell_lost(int rank) const;    // by a rank that is about to end for it
    void tell_silent(int rank) const;  // the same
    // The same, and by a rank that ends for a reason of its own. Others hear it from whom they hear
    // first, and always before its end.
    void tell_ended(int rank, const std::string& why) const;
    void tell_waits_for(int peer) const;  // -1: no longer
    void say_goodbye() const;             // by a rank that ends in good order

  private:
    void connect_all(Comm& comm, const std::string& address, double timeout);
    void watch(const std::function<void()>& tick);
    bool hear(int peer);
    bool hear_why(int peer, Word word);
    void tell_all(Word word, const std::string& text = {}) const;

    std::vector<int> sockets_;  // one a rank, -1 for this one; open until the end
    std::vector<std::atomic<bool>> left_;
    std::vector<std::atomic<int>> waits_for_;
    std::atomic<int> lost_ = -1, silent_ = -1, ended_ = -1;
    std::string why_;  // written before ended_, and once
    std::atomic<bool> done_ = false;
    std::thread thread_;
};

}  // namespace mpsplit
