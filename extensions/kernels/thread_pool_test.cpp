// The pool by itself: every part once, one thread a seat, what a part throws, calls within calls;
// and when a helper is asked. What runs under the thread sanitizer.
#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>

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

// What the report tells: a helper that is displaced within its part is waited for, and then left
// out. Here it sleeps instead.
void times_tell_of_waits() {
    ThreadPool pool(2);
    const ThreadPool::Times& times = pool.times();
    auto a_piece = [&](bool until_it_comes) {
        std::atomic<bool> came = false;
        pool.parallel(2, [&](int, int seat) {
            if (seat) {
                came = true;
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
            }
            for (int i = 0; !came && (until_it_comes || i < 1000); i++) std::this_thread::yield();
        });
    };
    a_piece(true);
    expect(times.waited_ns > 4 * ms && times.shared_ns > times.waited_ns && !times.alone_ns,
           "a wait of 5 ms is not counted");
    for (int i = 0; i < 1000 && !times.alone_ns; i++) a_piece(false);
    expect(times.alone_ns > 0 && pool.at_hand() == 1,
           "a helper that is always waited for is never left out");
    const auto a_while = [](int, int) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    };
    for (int i = 0; i < 1000 && pool.at_hand() == 1; i++) pool.parallel(1, a_while);
    expect(pool.at_hand() == 2, "a helper that was left out never comes back");
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

// Work of 0.1 ms without end. While there is a neighbour, a helper that was asked for 2 ms without
// a pause is displaced, and waited for 4 ms. Gives the share of the time that it was waited for,
// and the share of the work that it was asked to, from `from` on.
struct Share {
    double waited, asked;
};
Share share(int64_t neighbour_goes, int64_t from, int64_t until) {
    HelperTurns turns;
    int64_t waited = 0, asked = 0, runs = 0, stint = 0;
    for (int64_t now = 1; now < until;) {
        const bool comes = turns.asked(now);
        now += ms / 10;
        stint = comes ? stint + ms / 10 : 0;
        if (now >= from) runs++, asked += comes;
        if (!comes || now >= neighbour_goes || stint <= 2 * ms) continue;
        now += 4 * ms, waited += 4 * ms, stint = 0;
        turns.lost(now, 4 * ms);
    }
    return {double(waited) / double(until - from), double(asked) / double(runs)};
}

void turns_of_a_helper() {
    const int64_t s = 1000 * ms;
    const Share alone = share(0, 0, 5 * s), beside = share(100 * s, 0, 100 * s),
                after = share(5 * s, 8 * s, 10 * s);
    expect(alone.asked == 1, "a helper with a core of its own is left out");
    expect(beside.waited < 0.005, "a displaced helper is waited for too often");
    expect(after.asked == 1, "a helper is left out long after its neighbour has gone");
    HelperTurns turns;
    for (int64_t now = 0; now < 10 * s; now += s / 10) {
        turns.lost(now, 8 * ms);
        expect(turns.asked(now), "a helper that is displaced now and then is left out");
    }
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
        }
        helpers_come();
        times_tell_of_waits();
        for (int i = 0; i < 20; i++) ThreadPool(3);
        turns_of_a_helper();
    } catch (const std::exception& wrong) {
        std::printf("%s\n", wrong.what());
        return 1;
    }
    std::printf("every part once\n");
}
