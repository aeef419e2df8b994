#include "follow.h"

#include <sys/resource.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <utility>

#include "answers.h"
#include "orders.h"

namespace mpsplit {

namespace {

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

using Numbers = std::vector<int64_t>;

// The numbers that come with an order: one is in it, more come in a message of their own.
Numbers numbers_of(const Order& order, Comm& world) {
    Numbers numbers(size_t(order.count), order.token);
    if (order.count > 1) world.broadcast(numbers.data(), numbers.size() * sizeof numbers[0], lead);
    return numbers;
}

// What each order does to this rank.
class Follower {
  public:
    Follower(Slice& slice, Comm& world)
        : slice_(slice), world_(world), counted_(slice, world), answers_(slice.first_row()) {}

    void step(const Order& order, const Numbers& tokens) {
        Question question;
        question.slot = order.slot, question.position = order.position;
        question.length = order.count, question.wanted = order.wanted;
        question.temperature = order.temperature;
        questions_.assign(1, question);
        run(tokens);
    }

    void batch(const Order& order, const Numbers& numbers) {
        questions_.resize(size_t(order.position));
        const size_t bytes = questions_.size() * sizeof(Question);
        std::memcpy(static_cast<void*>(questions_.data()), numbers.data(), bytes);
        run(std::span(numbers).subspan(bytes / sizeof numbers[0]));
    }

    void more(const Order& order, const Numbers&) {
        Question question = questions_.at(size_t(order.position));
        question.wanted = order.wanted, question.temperature = order.temperature;
        answer(size_t(order.position), question, order.token, order.count);
    }

    void tilt(const Order& order, const Numbers& changes) {
        answers_.tilt(order.slot, order.position == 1, changes);
    }

    void mask(const Order& order, const Numbers& bits) { answers_.mask(order.slot, bits); }

    void place(const Order& order, const Numbers& pages) {
        slice_.place(order.slot, order.position, pages);
    }

    void reserve(const Order& order, const Numbers&) { slice_.reserve(order.count, order.token); }

    void save(const Order& order, const Numbers& numbers) {
        const auto [segment, folder] = segment_and_folder(numbers);
        slice_.save(order.slot, segment, folder);
    }

    void saved(const Order&, const Numbers&) { gather(slice_.saved()); }

    void load(const Order& order, const Numbers& numbers) {
        const auto [segment, folder] = segment_and_folder(numbers);
        gather(std::array{slice_.load(order.slot, segment, folder)});
    }

    void sweep(const Order& order, const Numbers& numbers) {
        if (order.position < 0 || size_t(order.position) > numbers.size())
            throw Error("rank 0 names more saves than it sends; install the same mpsplit");
        std::vector<std::string> saves;
        saves.reserve(size_t(order.position));
        for (size_t i = 0; i < size_t(order.position); ++i)
            saves.push_back(text(numbers, i * save_name_bytes).substr(0, save_name_bytes));
        slice_.sweep(text(numbers, saves.size() * save_name_bytes), saves);
    }

    void report(const Order&, const Numbers&) { counted_.report(); }

  private:
    void run(std::span<const int64_t> tokens) {
        logits_ = counted_.step(tokens, questions_);
        for (size_t i = 0; i < questions_.size(); ++i) answer(i, questions_[i], 0, 0);
    }

    // What rank 0 wants to know of the logits of one part.
    void answer(size_t part, const Question& question, int64_t from, int64_t count) {
        const auto rows = size_t(slice_.rows());
        if (question.wanted == nothing_wanted || rows == 0) return;
        const auto logits = logits_.subspan(part * rows, rows);
        if (question.wanted == all_wanted)
            return world_.send(logits.data(), logits.size_bytes(), lead);
        const auto message = answers_.more(logits, question, from, count);
        if (!message.empty()) world_.send(message.data(), message.size_bytes(), lead);
    }

    template <size_t words>
    void gather(const std::array<int64_t, words>& mine) {
        std::vector<int64_t> all(words * size_t(world_.size()));
        world_.all_gather(mine.data(), sizeof mine, all.data());
    }

    static std::pair<KeptSegment, std::string> segment_and_folder(const Numbers& numbers) {
        KeptSegment segment;
        if (numbers.size() * sizeof numbers[0] <= sizeof segment)
            throw Error("rank 0 names a segment without a folder; install the same mpsplit");
        std::memcpy(static_cast<void*>(&segment), numbers.data(), sizeof segment);
        return {segment, text(numbers, sizeof segment)};
    }

    // From a byte on, until a 0.
    static std::string text(const Numbers& numbers, size_t begin) {
        const size_t bytes = numbers.size() * sizeof numbers[0];
        if (begin >= bytes) throw Error("rank 0 names no folder; install the same mpsplit");
        const char* at = reinterpret_cast<const char*>(numbers.data()) + begin;
        return {at, strnlen(at, bytes - begin)};
    }

    Slice& slice_;
    Comm& world_;
    Counted counted_;
    Answers answers_;
    std::span<const float> logits_;  // of the last step, [parts][rows]
    std::vector<Question> questions_;
};

struct Handler {
    Verb verb;
    void (Follower::*obey)(const Order&, const Numbers&);
};
constexpr Handler handlers[] = {
    // by number; the end has nothing to obey
    {Verb::step, &Follower::step},
    {Verb::batch, &Follower::batch},
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
                        std::to_string(orders_version) + "; install the same mpsplit");
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
            throw Error("rank 0 gave order " + std::to_string(int64_t(order.verb)) +
                        ", which this rank does not know; install the same mpsplit");
        const auto [numbered, resting] = verb_facts[number];
        (follower.*handlers[number].obey)(order, numbered ? numbers_of(order, world) : Numbers());
        idle = resting;
    }
}

}  // namespace mpsplit
