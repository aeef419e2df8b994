#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "futex.h"
#include "presence.h"

namespace mpsplit {
namespace {

constexpr int64_t us = 1000;
// A helper looks for work so long before it sleeps: longer than what lies between two tokens. It
// takes nobody's core meanwhile.
constexpr int64_t looks_for_work = 5000 * us;
// The caller looks so long before it sleeps too, and gives its core to the helper it waits for.
constexpr int64_t looks_for_end = 20 * us;
// For a part that can be taken back the caller waits so long, and twice as long as it takes.
constexpr int64_t shortest_wait = 100 * us;
constexpr int64_t between_wakes = 1000 * us;  // of a helper that is only pinged

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// true when it was so before the time was over
template <class Condition>
bool look_for(Condition condition, int64_t ns) {
    for (int64_t until = 0, looks = 0;; looks++) {
        if (condition()) return true;
        breathe();
        if (looks % 16) continue;
        const int64_t at = now();
        if (!until) until = at + ns;
        if (at > until) return false;
    }
}

// This thread has a core while nobody else wants it. Where that is refused, it has little of one.
void be_polite() {
    const sched_param none = {};
    if (sched_setscheduler(0, SCHED_IDLE, &none) != 0)
        setpriority(PRIO_PROCESS, id_t(gettid()), 19);
}

// Lines of memory that only grow.
class OwnMemory {
  public:
    std::byte* of(size_t bytes) {
        if (bytes > lines_.size() * sizeof(Line))
            lines_.resize((bytes + sizeof(Line) - 1) / sizeof(Line));
        return lines_.data()->bytes;
    }

  private:
    struct alignas(64) Line {
        std::byte bytes[64];
    };
    std::vector<Line> lines_;
};

}  // namespace

// What a helper and the caller tell each other by one number, on a line of its own. The caller
// waits while it is `working`, or `awaited`, which is the same and the caller sleeps. While the
// helper is `making` a part apart, the caller may make it `late`: then it is the caller's part.
struct alignas(64) ThreadPool::Helper {
    enum : uint32_t { idle, pinged, asked, working, awaited, making, late, asleep, ending };
    std::atomic<uint32_t> state = idle;
    int seat = 0;
    std::atomic<int> part = 0;  // that it is making
    OwnMemory own;
    // the caller's alone
    Presence presence;
    int64_t woken_at = 0;
    bool is_asked = false;
    std::thread thread;

    void tell(uint32_t what) {
        if (state.exchange(what, std::memory_order_acq_rel) == asleep) wake_one(state);
    }
    bool change(uint32_t from, uint32_t to) {
        return state.compare_exchange_strong(from, to, std::memory_order_acq_rel);
    }
    bool is(uint32_t wanted) const { return state.load(std::memory_order_acquire) == wanted; }
    bool at_hand() const { return presence.here() && !is(late); }
    // Of a helper that is not: has it answered, and another ping.
    void ping(int64_t now) {
        const uint32_t is = state.load(std::memory_order_acquire);
        if (is != idle && is != asleep) return presence.silent(now);
        presence.answered(now, 0);
        if (is == asleep && now < woken_at + between_wakes) return;
        if (is == asleep) woken_at = now;
        tell(pinged);
    }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), ranges_(threads) {
    for (int seat = 1; seat < threads; seat++) {
        helpers_.push_back(std::make_unique<Helper>());
        Helper& helper = *helpers_.back();
        helper.seat = seat;
        helper.thread = std::thread([this, &helper] { serve(helper); });
    }
}

ThreadPool::~ThreadPool() {
    for (const auto& helper : helpers_) {
        helper->tell(Helper::ending);
        helper->thread.join();
    }
}

int ThreadPool::at_hand() const {
    return 1 + int(std::count_if(helpers_.begin(), helpers_.end(),
                                 [](const auto& helper) { return helper->at_hand(); }));
}

void ThreadPool::settle() const {
    for (const auto& helper : helpers_)
        while (helper->is(Helper::late)) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

void ThreadPool::run(int parts, Call call) {
    const bool alone = threads_ == 1 || busy_.exchange(true);
    if (alone) {
        for (int part = 0; part < parts; part++) call.call(call.what, part, 0);
        return;
    }
    call_ = call;
    share(parts, now());
    std::exception_ptr failure;
    if (failed_) {
        failure = std::exchange(failure_, nullptr);
        failed_ = false;
    }
    busy_ = false;
    if (failure) std::rethrow_exception(failure);
}

void ThreadPool::share(int parts, int64_t began) {
    for (int64_t seat = 0; seat < threads_; seat++) {
        ranges_[seat].next.store(int(parts * seat / threads_), std::memory_order_relaxed);
        ranges_[seat].end = int(parts * (seat + 1) / threads_);
    }
    bool any = false;
    const int64_t before = times_.all();
    for (const auto& helper : helpers_) {
        const bool here = helper->at_hand();
        any |= here;
        helper->is_asked = here && parts > 1;
        if (helper->is_asked)
            helper->tell(Helper::asked);
        else if (!here)
            helper->ping(before);
    }
    take_parts(0);
    const int64_t done = now();
    const double largest = call_.apart ? call_.apart->largest() * 2 : 1;
    const int64_t patience =
        std::max(shortest_wait, int64_t(double(done - began) * threads_ * largest));
    for (const auto& helper : helpers_) {
        if (!helper->is_asked) continue;
        Presence& presence = helper->presence;
        const int64_t at = before + done - began;
        if (helper->change(Helper::asked, Helper::idle))
            presence.silent(at);
        else if (ends_in_time(*helper, patience))
            presence.answered(at, now() - done);
    }
    const int64_t end = now();
    (any ? times_.shared_ns : times_.alone_ns) += end - began;
    if (end - done > looks_for_end) times_.waited_ns += end - done;
}

void ThreadPool::take_parts(int seat) {
    for (int part; (part = take_part(seat)) >= 0;) do_part(part, seat);
}

// the next one, or -1
int ThreadPool::take_part(int seat) {
    for (int i = 0; i < threads_; i++) {
        Range& range = ranges_[(seat + i) % threads_];
        if (range.next.load(std::memory_order_relaxed) >= range.end) continue;
        const int part = range.next.fetch_add(1, std::memory_order_relaxed);
        if (part < range.end) return part;
    }
    return -1;
}

void ThreadPool::do_part(int part, int seat) {
    try {
        call_.call(call_.what, part, seat);
    } catch (...) {
        if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
}

// All other parts are done. A part that the helper makes apart is taken back after a while: false
// then.
bool ThreadPool::ends_in_time(Helper& helper, int64_t patience) {
    const auto ended = [&] {
        const uint32_t is = helper.state.load(std::memory_order_acquire);  // once: it may turn back
        return is != Helper::working && is != Helper::making;
    };
    if (look_for(ended, looks_for_end)) return true;
    for (const int64_t until = now() + patience;;) {
        if (helper.is(Helper::making)) {
            if (look_for(ended, until - now())) return true;
            if (!helper.change(Helper::making, Helper::late)) continue;
            do_part(helper.part.load(std::memory_order_relaxed), 0);
            return false;
        }
        if (ended()) return true;
        if (!helper.change(Helper::working, Helper::awaited)) continue;
        while (helper.is(Helper::awaited)) sleep_while(helper.state, Helper::awaited);
        return true;
    }
}

void ThreadPool::serve(Helper& helper) {
    pthread_setname_np(pthread_self(), "mpsplit-helper");  // for top -H, and /proc
    be_polite();
    const auto something = [&] { return !helper.is(Helper::idle); };
    for (int64_t looks = looks_for_work;;) {
        if (!look_for(something, looks) && helper.change(Helper::idle, Helper::asleep))
            while (helper.is(Helper::asleep)) sleep_while(helper.state, Helper::asleep);
        if (helper.is(Helper::ending)) return;
        looks = 0;  // where it is left out
        if (helper.change(Helper::pinged, Helper::idle)) continue;
        if (!helper.change(Helper::asked, Helper::working)) continue;  // too late
        looks = looks_for_work;
        if (!call_.apart)
            take_parts(helper.seat);
        else if (!make_parts(helper)) {
            helper.change(Helper::late, Helper::idle);  // or it ends
            continue;
        }
        if (helper.state.exchange(Helper::idle, std::memory_order_acq_rel) == Helper::awaited)
            wake_one(helper.state);
    }
}

// false when one was taken back
bool ThreadPool::make_parts(Helper& helper) {
    const WorkApart* work = nullptr;
    try {
        work = call_.apart->copy(helper.own.of(call_.apart->own_bytes()));
    } catch (...) {
        return true;  // no memory: the caller does it all
    }
    for (int part; (part = take_part(helper.seat)) >= 0;) {
        helper.part.store(part, std::memory_order_relaxed);
        const bool apart = helper.change(Helper::working, Helper::making);  // else it is awaited
        work->make(part);
        if (apart && !helper.change(Helper::making, Helper::working)) return false;
        work->put(part);
    }
    return true;
}

}  // namespace mpsplit
