#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "futex.h"

namespace mpsplit {
namespace {

constexpr int64_t us = 1000;
// A helper looks for work so long before it sleeps: longer than a layer that one thread does.
constexpr int64_t looks_for_work = 50 * us;
// The caller looks so long before it sleeps too, and gives its core to the helper it waits for.
constexpr int64_t looks_for_end = 20 * us;
// A wait beyond this, and beyond so many parts, is for a helper that is on no core.
constexpr int64_t shortest_wait = 200 * us, longest_parts = 4;
constexpr int64_t between_looks = 10'000 * us;  // at how much the caller was displaced

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

}  // namespace

// What a helper and the caller tell each other by one number, on a line of its own.
struct alignas(64) ThreadPool::Helper {
    enum : uint32_t { idle, asked, working, awaited, asleep, ending };
    std::atomic<uint32_t> state = idle;
    int seat = 0;
    HelperTurns turns;  // the caller's alone
    std::thread thread;

    void ask(uint32_t to = asked) {
        if (state.exchange(to, std::memory_order_acq_rel) == asleep) wake_one(state);
    }
    bool change(uint32_t from, uint32_t to) {
        return state.compare_exchange_strong(from, to, std::memory_order_acq_rel);
    }
    bool is(uint32_t wanted) const { return state.load(std::memory_order_acquire) == wanted; }
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
        helper->ask(Helper::ending);
        helper->thread.join();
    }
}

int ThreadPool::at_hand() const {
    return 1 + int(std::count_if(helpers_.begin(), helpers_.end(), [&](const auto& helper) {
               return helper->turns.asked(times_.all());
           }));
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
    for (const auto& helper : helpers_)
        if (helper->turns.asked(times_.all())) {
            any = true;
            if (parts > 1) helper->ask();
        }
    take_parts(0);
    const int64_t done = now();
    bool slept = false;
    for (const auto& helper : helpers_) {
        if (helper->is(Helper::asked) && helper->change(Helper::asked, Helper::idle)) continue;
        if (!wait_for(*helper)) continue;
        const int64_t waited = now() - done, a_part = (done - began) * threads_ / parts;
        slept = true;
        if (waited > std::max(shortest_wait, longest_parts * a_part))
            helper->turns.lost(times_.all(), waited);
    }
    const int64_t end = now();
    (any ? times_.shared_ns : times_.alone_ns) += end - began;
    if (slept) times_.waited_ns += end - done;
    if (end > looked_at_ + between_looks) look_at_own_core(end, any);
}

// A caller that is displaced itself gets less of the cores because of its helpers.
void ThreadPool::look_at_own_core(int64_t end, bool any) {
    const int64_t delayed = delay_.more();
    if (any && end < looked_at_ + 5 * between_looks)  // else it did other things meanwhile
        for (const auto& helper : helpers_) helper->turns.lost(times_.all(), delayed);
    looked_at_ = end;
}

void ThreadPool::take_parts(int seat) {
    for (int i = 0; i < threads_; i++) {
        Range& range = ranges_[(seat + i) % threads_];
        for (int part; (part = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
            do_part(part, seat);
    }
}

void ThreadPool::do_part(int part, int seat) {
    try {
        call_.call(call_.what, part, seat);
    } catch (...) {
        if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
}

// true when that was longer than a look
bool ThreadPool::wait_for(Helper& helper) const {
    const auto finished = [&] { return !helper.is(Helper::working); };
    if (look_for(finished, looks_for_end) || !helper.change(Helper::working, Helper::awaited))
        return false;
    while (helper.is(Helper::awaited)) sleep_while(helper.state, Helper::awaited);
    return true;
}

void ThreadPool::serve(Helper& helper) {
    pthread_setname_np(pthread_self(), "mpsplit-helper");  // for top -H, and /proc
    const auto something = [&] { return helper.is(Helper::asked) || helper.is(Helper::ending); };
    for (;;) {
        if (!look_for(something, looks_for_work) && helper.change(Helper::idle, Helper::asleep))
            while (helper.is(Helper::asleep)) sleep_while(helper.state, Helper::asleep);
        if (helper.is(Helper::ending)) return;
        if (!helper.change(Helper::asked, Helper::working)) continue;  // too late
        take_parts(helper.seat);
        if (helper.state.exchange(Helper::idle, std::memory_order_acq_rel) == Helper::awaited)
            wake_one(helper.state);
    }
}

}  // namespace mpsplit
