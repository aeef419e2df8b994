// Threads that share out the parts of one piece of work, and are never waited for in vain.
//
// In: how many parts there are, and what does one of them. Out: every part done once, by whoever
// was free. Helpers run at the lowest priority: they take nothing from the caller, nor from other
// processes, and have all of a core that nobody wants. Invariant: the caller waits only for a part
// that somebody has begun; and where parts are made apart, only while one is put in its place. A
// helper that another process has displaced while it made one loses it to the caller, and is left
// out until its core is free again (presence.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

namespace mpsplit {

// Work whose parts can be taken back: a helper makes a part in memory of its own, from a copy of
// what the work reads, and then puts it in its place. What make() reads and copy() does not copy
// must last until the pool has ended, or settled. Nothing here may throw but copy().
class WorkApart {
  public:
    virtual void do_part(int part) const = 0;  // by the caller, in its place at once
    virtual double largest() const = 0;        // part, of the whole work

    virtual size_t own_bytes() const = 0;  // that a helper needs for what follows, in lines
    virtual const WorkApart* copy(std::byte* own) const = 0;
    virtual void make(int part) const = 0;  // of a copy: into its own memory
    virtual void put(int part) const = 0;   // of a copy: from there into its place

  protected:
    ~WorkApart() = default;
};

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
                    &work, nullptr});
    }
    void parallel_apart(int parts, const WorkApart& work) {
        run(parts, {[](const void* what, int part, int) {
                        static_cast<const WorkApart*>(what)->do_part(part);
                    },
                    &work, &work});
    }
    // Waits until nobody makes a part any more that was taken back.
    void settle() const;

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
        const WorkApart* apart;  // or nullptr
    };
    struct alignas(64) Range {
        std::atomic<int> next = 0;
        int end = 0;
    };
    struct Helper;

    void run(int parts, Call call);
    void share(int parts, int64_t began);
    void take_parts(int seat);
    int take_part(int seat);
    void do_part(int part, int seat);
    void serve(Helper& helper);
    bool make_parts(Helper& helper);
    bool ends_in_time(Helper& helper, int64_t patience);

    const int threads_;
    Call call_ = {};
    std::vector<Range> ranges_;  // a seat's parts that nobody has taken yet
    std::vector<std::unique_ptr<Helper>> helpers_;
    std::atomic<bool> busy_ = false, failed_ = false;
    std::exception_ptr failure_;
    Times times_;
};

}  // namespace mpsplit
