#include "follow.h"

#include <sys/resource.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "answers.h"
#include "order_numbers.h"

namespace mpsplit {

namespace {

constexpr const char* remedy = "; install the same mpsplit";

// While it lives, the others may take as long as they like.
class Patient {
  public:
    explicit Patient(Comm& world) : link_(*world.link()) { link_.resting = true; }
    ~Patient() { link_.resting = false; }

  private:
    Link& link_;
};

// What steps cost this rank, as mpsplit/runtime/account/account.py counts it.
class Counted {
  public:
    Counted(Slice& slice, Comm& world) : slice_(slice), world_(world), told_(so_far()) {}

    std::span<const float> step(std::span<const int64_t> tokens,
                                std::span<const Question> questions) {
        const double inside = slice_.seconds_between_ranks();
        const auto began = Clock::now();
        const auto logits = slice_.step(tokens, questions);
        int64_t* took = took_ + (tokens.size() == questions.size() ? 2 : 0);
        took[0] += std::chrono::nanoseconds(Clock::now() - began).count();
        took[1] += int64_t((slice_.seconds_between_ranks() - inside) * 1e9);
        return logits;
    }

    void report() {
        auto mine = so_far();
        std::transform(mine.begin(), mine.end(), told_.begin(), mine.begin(), std::minus<>());
        mine[1] = peak_rss_bytes();
        std::vector<int64_t> all(mine.size() * size_t(world_.size()));
        world_.all_gather(mine.data(), mine.size() * sizeof mine[0], all.data());
        told_ = so_far();
    }

  private:
    using Clock = std::chrono::steady_clock;

    std::vector<int64_t> so_far() const {
        std::vector<int64_t> words{
            int64_t(slice_.bytes_sent()), 0, took_[0], took_[1], took_[2], took_[3]};
        const auto work = slice_.shared_work();
        words.insert(words.end(), work.begin(), work.end());
        const auto spent = slice_.spent();
        words.insert(words.end(), spent.begin(), spent.end());
        for (const Passed& to : world_.link()->passed) {
            words.insert(words.end(), {to.bytes, to.messages, to.waited});
            words.insert(words.end(), std::begin(to.waits), std::end(to.waits));
        }
        return words;
    }

    static int64_t peak_rss_bytes() {
        rusage used{};
        getrusage(RUSAGE_SELF, &used);
        return int64_t(used.ru_maxrss) * 1024;
    }

    Slice& slice_;
    Comm& world_;
    // ns of prompts, of it between ranks; of single tokens, of it between ranks
    int64_t took_[4] = {};
    std::vector<int64_t> told_;
};

// The numbers that come with an order: one is in it, more come in a message of their own.
std::vector<int64_t> numbers_of(const Order& order, Comm& world) {
    check_count(order);
    std::vector<int64_t> numbers(size_t(order.count), order.token);
    if (order.count > 1) world.broadcast(numbers.data(), numbers.size() * sizeof numbers[0], lead);
    return numbers;
}

// What each order does to this rank, after those before it.
class Follower {
  public:
    Follower(Slice& slice, Comm& world)
        : slice_(slice), world_(world), counted_(slice, world), answers_(slice.first_row()) {}

    void step(const Order& order, Numbers numbers) {
        auto [questions, tokens] = parts_of(order, numbers);
        for (const Question& part : questions) {
            check_room(part.slot, part.position + part.length);
            check_known(part.changed & by_tilt, tilted_, part.slot, "tilt");
            check_known(part.changed & by_mask, masked_, part.slot, "mask");
        }
        questions_ = std::move(questions);
        logits_ = counted_.step(tokens, questions_);
        for (size_t i = 0; i < questions_.size(); ++i) answer(i, wish_of(questions_[i]));
    }

    void more(const Order& order, Numbers) {
        want(order.position >= 0 && order.position < int64_t(questions_.size()),
             "the last step had " + std::to_string(questions_.size()) + " parts, none is part " +
                 std::to_string(order.position));
        const auto part = size_t(order.position);
        Wish wish = wish_of(questions_[part]);
        wish.wanted = order.wanted, wish.temperature = order.temperature;
        wish.start = order.token, wish.count = order.count;
        check(wish);
        answer(part, wish);
    }

    void tilt(const Order& order, Numbers changes) {
        check_tilt(order, changes);
        check_known(order.position != 1, tilted_, order.slot, "tilt");
        tilted_.insert(order.slot);
        answers_.tilt(order.slot, order.position == 1, changes);
    }

    void mask(const Order& order, Numbers bits) {
        check_slot(order);
        masked_.insert(order.slot);
        answers_.mask(order.slot, bits);
    }

    void place(const Order& order, Numbers pages) {
        check_place(order, pages);
        int64_t& has = pages_[order.slot];
        want(order.position >= 0 && order.position <= has,
             "page " + std::to_string(order.position) + " does not follow the " +
                 std::to_string(has) + " of slot " + std::to_string(order.slot));
        has = order.position + int64_t(pages.size());
        slice_.place(order.slot, order.position, pages);
    }

    void forget(const Order&, Numbers pages) {
        check_pages(pages);
        slice_.forget(pages);
    }

    void reserve(const Order& order, Numbers) {
        check_reserve(order);
        pages_.clear();
        slice_.reserve(order.count, order.token);
    }

    void save(const Order& order, Numbers numbers) {
        const auto [segment, folder] = kept_of(order, numbers);
        check_room(order.slot, segment.last);
        slice_.save(order.slot, segment, folder);
    }

    void saved(const Order&, Numbers) { gather(slice_.saved()); }

    void load(const Order& order, Numbers numbers) {
        const auto [segment, folder] = kept_of(order, numbers);
        check_room(order.slot, segment.until);
        gather(std::array{slice_.load(order.slot, segment, folder)});
    }

    void sweep(const Order& order, Numbers numbers) {
        const auto [folder, saves] = swept_of(order, numbers);
        slice_.sweep(folder, saves);
    }

    void report(const Order&, Numbers) { counted_.report(); }

  private:
    // What rank 0 wants to know of the logits of one part.
    void answer(size_t part, const Wish& wish) {
        const auto rows = size_t(slice_.rows());
        if (wish.wanted == nothing_wanted || rows == 0) return;
        const auto logits = logits_.subspan(part * rows, rows);
        if (wish.wanted == all_wanted) return world_.send(logits.data(), logits.size_bytes(), lead);
        const auto message = answers_.answer(logits, questions_[part].slot, wish);
        if (!message.empty()) world_.send(message.data(), message.size_bytes(), lead);
    }

    template <size_t words>
    void gather(const std::array<int64_t, words>& mine) {
        std::vector<int64_t> all(words * size_t(world_.size()));
        world_.all_gather(mine.data(), sizeof mine, all.data());
    }

    void check_room(int64_t slot, int64_t positions) const {
        const auto found = pages_.find(slot);
        const int64_t has = found == pages_.end() ? 0 : found->second;
        want(positions <= page_positions * has, "slot " + std::to_string(slot) + " has " +
                                                    std::to_string(has) + " pages, too few for " +
                                                    std::to_string(positions) + " positions");
    }

    static void check_known(bool needed, const std::set<int64_t>& slots, int64_t slot,
                            const char* what) {
        want(!needed || slots.count(slot),
             "slot " + std::to_string(slot) + " has no " + std::string(what));
    }

    Slice& slice_;
    Comm& world_;
    Counted counted_;
    Answers answers_;
    std::span<const float> logits_;  // of the last step, [parts][rows]
    std::vector<Question> questions_;
    std::map<int64_t, int64_t> pages_;   // slot -> how many it has
    std::set<int64_t> tilted_, masked_;  // slots
};

struct Handler {
    Verb verb;
    void (Follower::*obey)(const Order&, Numbers);
};
constexpr Handler handlers[] = {
    // by number; the end has nothing to obey
    {Verb::step, &Follower::step},
    {Verb::batch, &Follower::step},
    {Verb::more, &Follower::more},
    {Verb::place, &Follower::place},
    {Verb::reserve, &Follower::reserve},
    {Verb::save, &Follower::save},
    {Verb::load, &Follower::load},
    {Verb::report, &Follower::report},
    {Verb::end, nullptr},
    {Verb::saved, &Follower::saved},
    {Verb::sweep, &Follower::sweep},
    {Verb::tilt, &Follower::tilt},
    {Verb::mask, &Follower::mask},
    {Verb::forget, &Follower::forget},
};
constexpr bool every_verb_has_one() {
    for (size_t i = 0; i < std::size(handlers); ++i)
        if (size_t(handlers[i].verb) != i) return false;
    return std::size(handlers) == std::size(verb_facts);
}
static_assert(every_verb_has_one());

}  // namespace

void greet(const Slice& slice, Comm& world) {
    const int64_t mine[3] = {orders_version, slice.first_row(), slice.first_row() + slice.rows()};
    std::vector<int64_t> all(3 * size_t(world.size()));
    const Patient patient(world);
    world.barrier();
    world.all_gather(mine, sizeof mine, all.data());
    for (size_t rank = 0; rank < all.size() / 3; ++rank)
        if (all[3 * rank] != orders_version)
            throw Error("rank " + std::to_string(rank) + " speaks version " +
                        std::to_string(all[3 * rank]) + " of the orders, this rank version " +
                        std::to_string(orders_version) + remedy);
    const int64_t package = slice.package();
    std::vector<int64_t> packages(size_t(world.size()));
    world.all_gather(&package, sizeof package, packages.data());
    for (size_t rank = 0; rank < packages.size(); ++rank)
        if (packages[rank] != packages[lead])
            throw Error("rank " + std::to_string(rank) +
                        " has another package than rank 0, or another conversion of it; copy that "
                        "of rank 0 to all hosts");
}

void follow(Slice& slice, Comm& world) {
    Follower follower(slice, world);
    for (bool idle = true;;) {
        Order order;
        if (idle) {
            const Patient patient(world);
            world.broadcast(&order, sizeof order, lead);
        } else {
            world.broadcast(&order, sizeof order, lead);
        }
        if (order.verb == Verb::end) return;
        const auto number = size_t(order.verb);
        if (number >= std::size(handlers))
            throw Error("rank " + std::to_string(lead) + " gave order " +
                        std::to_string(int64_t(order.verb)) + ", which rank " +
                        std::to_string(world.rank()) + " does not know" + remedy);
        const auto [name, numbered, resting] = verb_facts[number];
        try {
            const auto numbers = numbered ? numbers_of(order, world) : std::vector<int64_t>();
            (follower.*handlers[number].obey)(order, numbers);
        } catch (const Error&) {
            throw;                               // of the ranks
        } catch (const std::exception& wrong) {  // of the order, or the engine cannot obey it
            throw Error("rank " + std::to_string(world.rank()) + " cannot obey " + told(order) +
                        " of rank " + std::to_string(lead) + ": " + wrong.what() + remedy);
        }
        idle = resting;
    }
}

}  // namespace mpsplit
