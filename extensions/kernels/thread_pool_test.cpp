// The pool by itself: every part once, one thread a seat, what a part throws, calls within calls;
// and when a helper is asked. What runs under the thread sanitizer.
#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "presence.h"

using namespace mpsplit;

namespace {

constexpr int64_t ms = 1'000'000;

// fails with the text when it is not so
void expect(bool so, const std::string& text) {
    if (!so) throw std::runtime_error(text);
}

// plain numbers: the sanitizer sees whoever writes one that is another's
void every_part_once(ThreadPool& pool, int parts, int rounds) {
    std::vector<int> done(parts), of_seat(pool.threads());
    for (int round = 0; round < rounds; round++)
        pool.parallel(parts, [&](int part, int seat) { done[part]++, of_seat[seat]++; });
    int sum = 0;
    for (const int count : of_seat) sum += count;
    const bool once = std::all_of(done.begin(), done.end(), [&](int n) { return n == rounds; });
    expect(once && sum == parts * rounds, std::to_string(parts) + " parts by " +
                                              std::to_string(pool.threads()) +
                                              " threads were not each done once");
}

// the helpers' sleep is shorter than this takes
void after_a_pause(ThreadPool& pool) {
    for (int round = 0; round < 5; round++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        every_part_once(pool, 64, 1);
    }
}

// Two threads meet in one piece of work: only helpers that come make it end. And what a helper has
// begun is waited for.
void helpers_come() {
    ThreadPool pool(2);
    std::atomic<int> there = 0;
    bool done = false;
    pool.parallel(2, [&](int, int seat) {
        for (there++; there < 2;) std::this_thread::yield();
        if (seat == 0) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        done = true;
    });
    expect(done, "a helper is not waited for");
}

void a_part_throws(ThreadPool& pool) {
    std::vector<int> done(50);
    std::string caught;
    try {
        pool.parallel(50, [&](int part, int) {
            done[part]++;
            if (part % 20 == 7) throw std::runtime_error("part of 20");
        });
    } catch (const std::runtime_error& wrong) {
        caught = wrong.what();
    }
    expect(caught == "part of 20", "what a part throws does not arrive");
    if (pool.threads() > 1)
        expect(std::count(done.begin(), done.end(), 1) == 50, "a part that throws ends others");
    every_part_once(pool, 50, 3);
}

void within_a_part(ThreadPool& pool) {
    std::vector<int> done(6 * 7);
    pool.parallel(6, [&](int outer, int) {
        pool.parallel(7, [&](int inner, int) { done[outer * 7 + inner]++; });
    });
    expect(std::count(done.begin(), done.end(), 1) == 6 * 7, "a call within a part loses parts");
}

void comes_back(ThreadPool& pool) {
    const auto a_while = [](int, int) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    for (int i = 0; i < 5000 && pool.at_hand() == 1; i++) pool.parallel(1, a_while);
    expect(pool.at_hand() == 2, "a helper that was left out never comes back");
}

// What the report tells: a helper that is displaced within its part is waited for, and then left
// out until it has answered for a while. Here it sleeps instead.
void times_tell_of_waits() {
    ThreadPool pool(2);
    const ThreadPool::Times& times = pool.times();
    auto a_piece = [&](int helper_ms) {
        std::atomic<bool> came = false;
        pool.parallel(2, [&](int, int seat) {
            if (seat) {
                came = true;
                std::this_thread::sleep_for(std::chrono::milliseconds(helper_ms));
            }
            while (!came) std::this_thread::yield();
        });
    };
    for (int i = 0; i < 10; i++) a_piece(0);
    a_piece(5);
    expect(times.waited_ns > 4 * ms && times.shared_ns > times.waited_ns && !times.alone_ns,
           "a wait of 5 ms is not counted");
    expect(pool.at_hand() == 1, "a helper that was waited for is not left out");
    comes_back(pool);
    expect(times.alone_ns > 0, "work of one thread in the place of two is not counted");
}

// Squares, whose first part that a helper makes is stopped until it is told to go on.
class Squares final : public WorkApart {
  public:
    Squares(std::vector<int>& y, std::atomic<bool>* stopped, std::atomic<bool>& goes_on)
        : y_(&y), stopped_(stopped), goes_on_(&goes_on) {}

    void do_part(int part) const override {
        if (stopped_ && !by_helper_)
            for (; !*stopped_;) std::this_thread::yield();  // one part is the helper's
        (*y_)[part] += part * part;
        by_caller++;
    }
    double largest() const override { return 1. / double(y_->size()); }
    size_t own_bytes() const override { return 64 + sizeof(int); }
    const WorkApart* copy(std::byte* own) const override {
        Squares& copied = *new (own) Squares(*this);
        copied.by_helper_ = reinterpret_cast<int*>(own + 64);
        return &copied;
    }
    void make(int part) const override {
        *by_helper_ = part * part;
        if (!stopped_) return;
        *stopped_ = true;
        while (!*goes_on_) std::this_thread::yield();
    }
    void put(int part) const override { (*y_)[part] += *by_helper_; }

    static inline std::atomic<int> by_caller = 0;

  private:
    std::vector<int>* y_;
    std::atomic<bool>*stopped_, *goes_on_;
    int* by_helper_ = nullptr;
};
static_assert(sizeof(Squares) <= 64);

bool are_squares(const std::vector<int>& y) {
    for (int i = 0; i < int(y.size()); i++)
        if (y[i] != i * i) return false;
    return true;
}

// The caller ends without a helper that is stopped in the middle of its part, and does it itself;
// what the helper has made is thrown away, later, and then it comes back.
void taken_back() {
    ThreadPool pool(2);
    std::atomic<bool> goes_on = false, stopped = false;
    std::vector<int> y(8);
    Squares::by_caller = 0;
    pool.parallel_apart(8, Squares(y, &stopped, goes_on));
    expect(are_squares(y) && Squares::by_caller == 8, "a part that is late is not taken back");
    expect(pool.at_hand() == 1, "a late helper is not left out");
    for (int i = 0; i < 3; i++) {  // it is still late
        std::vector<int> more(8);
        pool.parallel_apart(8, Squares(more, nullptr, goes_on));
        expect(are_squares(more), "work beside a late helper loses parts");
    }
    std::thread later([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        goes_on = true;
    });
    pool.settle();
    expect(goes_on, "settle() does not wait for a late helper");
    later.join();
    expect(are_squares(y), "a part that was taken back is put in its place twice");
    comes_back(pool);
}

// A pool that ends waits for a late helper: it may read weights.
void ends_after_late() {
    std::atomic<bool> goes_on = false, stopped = false;
    std::vector<int> y(8);
    std::thread later;
    {
        ThreadPool pool(2);
        pool.parallel_apart(8, Squares(y, &stopped, goes_on));
        later = std::thread([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            goes_on = true;
        });
    }
    expect(goes_on, "a pool ends before its late helper");
    later.join();
}

// While it makes a part in time, it is waited for.
void made_apart(ThreadPool& pool) {
    std::atomic<bool> unused = false;
    int caller_did = 0;
    for (int round = 0; round < 300; round++) {
        std::vector<int> y(64);
        Squares::by_caller = 0;
        pool.parallel_apart(64, Squares(y, nullptr, unused));
        expect(are_squares(y), "parts made apart were not each put in their place once");
        caller_did += Squares::by_caller;
    }
    if (pool.threads() == 1) expect(caller_did == 300 * 64, "who did these parts?");
}

void two_callers(ThreadPool& pool) {
    std::thread other([&] {
        for (int i = 0; i < 200; i++) {
            std::atomic<int> done = 0;
            pool.parallel(8, [&](int, int) { done++; });
            expect(done == 8, "a second caller loses parts");
        }
    });
    every_part_once(pool, 8, 200);
    other.join();
}

// Work of 0.1 ms without end. While there is a neighbour, a helper has run for 4 ms of every 200
// only; whoever asks it then, and it is displaced, waits for 50 ms. Gives the share of the time
// that it was waited for, and the share of the work that it was asked to, from `from` on.
struct Share {
    double waited, asked;
};
Share share(int64_t neighbour_goes, int64_t from, int64_t until) {
    Presence presence;
    int64_t waited = 0, asked = 0, runs = 0;
    for (int64_t now = 1; now < until;) {
        const bool comes = presence.here(),
                   runs_now = now >= neighbour_goes || now % (200 * ms) < 4 * ms;
        now += ms / 10;
        if (now >= from) runs++, asked += comes;
        if (runs_now)
            presence.answered(now, 0);
        else if (!comes)
            presence.silent(now);
        else {
            now += 50 * ms, waited += 50 * ms;
            presence.answered(now, 50 * ms);
        }
    }
    return {double(waited) / double(until - from), double(asked) / double(runs)};
}

void presence_of_a_helper() {
    const int64_t s = 1000 * ms;
    const Share alone = share(0, 0, 5 * s), beside = share(100 * s, 0, 100 * s),
                after = share(5 * s, 8 * s, 10 * s);
    expect(alone.asked == 1, "a helper with a core of its own is left out");
    expect(beside.waited < 0.005, "a displaced helper is waited for too often");
    expect(after.asked == 1, "a helper is left out long after its neighbour has gone");
    Presence presence;
    int64_t out = 0;
    for (int64_t now = 0; now < 10 * s; now += ms) {
        presence.answered(now, now % (s / 2) ? ms / 2 : 2 * ms);
        out += !presence.here();
    }
    expect(out < 10 * s / ms / 4, "a helper that is displaced now and then is left out for long");
    presence = {};
    presence.silent(ms / 2);
    expect(presence.here(), "a helper that is asleep has no time to wake up");
    presence.silent(3 * ms);
    expect(!presence.here(), "a helper that does not come is asked again and again");
}

}  // namespace

int main() {
    try {
        for (const int threads : {1, 2, 3, 4}) {
            ThreadPool pool(threads);
            for (const int parts : {0, 1, 2, 3, 7, 100}) every_part_once(pool, parts, 300);
            after_a_pause(pool);
            a_part_throws(pool);
            within_a_part(pool);
            two_callers(pool);
            made_apart(pool);
        }
        helpers_come();
        times_tell_of_waits();
        taken_back();
        ends_after_late();
        for (int i = 0; i < 20; i++) ThreadPool(3);
        presence_of_a_helper();
    } catch (const std::exception& wrong) {
        std::printf("%s\n", wrong.what());
        return 1;
    }
    std::printf("every part once\n");
}
