// Threads that share out the parts of one piece of work, and are never waited for in vain.
//
// In: how many parts there are, and what does one of them. Out: every part done once, by whoever
// was free. Invariant: the caller waits only for a part that somebody has begun. A helper that
// another process has displaced before it took a part costs nothing; one that was displaced within
// a part is left out for a while (helper_turns.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "helper_turns.h"
#include "run_delay.h"

namespace mpsplit {

class ThreadPool {
  public:
    // The caller is one of the threads: with 1 there is nobody else.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;

    int threads() const { return threads_; }
    // How many would take parts now: 1 while the helpers are left out. Fewer parts do then, and
    // take one thread less time. For the thread that calls parallel().
    int at_hand() const;

    // Calls work(part, seat) for each part from 0 on; nobody else has the seat, 0 to threads() - 1,
    // meanwhile. Each seat begins with an equal run of neighbouring parts, and then helps the
    // others. What a part throws is thrown here, after all is done. From within a part, or while
    // another thread calls it, the caller does everything alone.
    template <class Work>
    void parallel(int parts, const Work& work) {
        run(parts, {[](const void* what, int part, int seat) {
                        (*static_cast<const Work*>(what))(part, seat);
                    },
                    &work});
    }

    struct Times {
        int64_t shared_ns = 0;  // that work with helpers took
        int64_t waited_ns = 0;  // of them, for a helper
        int64_t alone_ns = 0;   // that work took while the helpers were left out
        int64_t all() const { return shared_ns + alone_ns; }
    };
    const Times& times() const { return times_; }  // so far

  private:
    struct Call {
        void (*call)(const void* what, int part, int seat);
        const void* what;
    };
    struct alignas(64) Range {
        std::atomic<int> next = 0;
        int end = 0;
    };
    struct Helper;

    void run(int parts, Call call);
    void share(int parts, int64_t began);
    void take_parts(int seat);
    void do_part(int part, int seat);
    void serve(Helper& helper);
    bool wait_for(Helper& helper) const;
    void look_at_own_core(int64_t end, bool any);

    const int threads_;
    Call call_ = {};
    std::vector<Range> ranges_;  // a seat's parts that nobody has taken yet
    std::vector<std::unique_ptr<Helper>> helpers_;
    std::atomic<bool> busy_ = false, failed_ = false;
    std::exception_ptr failure_;
    Times times_;
    RunDelay delay_;
    int64_t looked_at_ = 0;  // at what it has delayed the caller
};

}  // namespace mpsplit
