#include "follow.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <sys/resource.h>

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

    std::span<const float> step(std::span<const int64_t> tokens, std::span<const Part> parts) {
        const double inside = slice_.seconds_between_ranks();
        const auto began = Clock::now();
        const auto logits = slice_.step(tokens, parts);
        int64_t* took = took_ + (tokens.size() == parts.size() ? 2 : 0);
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
        std::vector<int64_t> words{int64_t(slice_.bytes_sent()), 0, took_[0], took_[1], took_[2], took_[3]};
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
    int64_t took_[4] = {}; // ns of prompts, of it between ranks; of single tokens, of it between ranks
    std::vector<int64_t> told_;
};

double log_sum_exp(std::span<const float> logits, double temperature) {
    const double top = *std::max_element(logits.begin(), logits.end()) / temperature;
    double sum = 0;
    for (const float x : logits) sum += std::exp(x / temperature - top);
    return top + std::log(sum);
}

// What rank 0 wants to know of the logits of one part.
void answer(Slice& slice, std::span<const float> logits, int part, int64_t wanted, double temperature, Comm& world) {
    if (wanted == 0 || slice.rows() == 0) return;
    logits = logits.subspan(size_t(part * slice.rows()), size_t(slice.rows()));
    if (wanted < 0 || wanted >= slice.rows()) return world.send(logits.data(), logits.size_bytes(), lead);
    const size_t count = size_t(wanted);
    std::vector<float> values(count);
    std::vector<int64_t> ids(count);
    slice.largest(part, int(count), values.data(), ids.data());
    std::vector<double> message{temperature > 0 ? log_sum_exp(logits, temperature) : std::numeric_limits<double>::quiet_NaN()};
    message.insert(message.end(), values.begin(), values.end());
    message.insert(message.end(), ids.begin(), ids.end());
    world.send(message.data(), message.size() * sizeof(double), lead);
}

// The numbers that belong to an order: one is in it, more come in a message of their own.
std::vector<int64_t> numbers(const Order& order, Comm& world) {
    std::vector<int64_t> found(size_t(order.count), order.token);
    if (order.count > 1) world.broadcast(found.data(), found.size() * sizeof found[0], lead);
    return found;
}

} // namespace

void greet(const Slice& slice, Comm& world) {
    const int64_t mine[3] = {orders_version, slice.first_row(), slice.first_row() + slice.rows()};
    std::vector<int64_t> all(3 * world.size());
    const Patient patient(world);
    world.barrier();
    world.all_gather(mine, sizeof mine, all.data());
    for (int rank = 0; rank < world.size(); ++rank)
        if (all[3 * rank] != orders_version)
            throw Error("rank " + std::to_string(rank) + " speaks version " + std::to_string(all[3 * rank]) + " of the orders, this rank version " +
                        std::to_string(orders_version) + "; install the same mpsplit");
}

void follow(Slice& slice, Comm& world) {
    std::span<const float> logits;
    Counted counted(slice, world);
    auto step = [&](std::span<const int64_t> tokens, std::span<const Part> parts) {
        logits = counted.step(tokens, parts);
        for (size_t i = 0; i < parts.size(); ++i) answer(slice, logits, int(i), parts[i].wanted, parts[i].temperature, world);
    };
    for (bool idle = true;;) {
        Order order;
        if (idle) {
            const Patient patient(world);
            world.broadcast(&order, sizeof order, lead);
        } else world.broadcast(&order, sizeof order, lead);
        idle = order.verb == Verb::reserve || order.verb == Verb::save || order.verb == Verb::load || order.verb == Verb::report;
        switch (order.verb) {
        case Verb::step: {
            const Part part = {order.slot, order.position, order.count, order.wanted, order.temperature};
            step(numbers(order, world), {&part, 1});
            break;
        }
        case Verb::batch: {
            const auto words = numbers(order, world);
            std::vector<Part> parts(size_t(order.position));
            std::memcpy(parts.data(), words.data(), parts.size() * sizeof(Part));
            step(std::span(words).subspan(parts.size() * sizeof(Part) / sizeof words[0]), parts);
            break;
        }
        case Verb::more: answer(slice, logits, int(order.position), order.wanted, order.temperature, world); break;
        case Verb::place: slice.place(order.slot, order.position, numbers(order, world)); break;
        case Verb::reserve: slice.reserve(order.count, order.token); break;
        case Verb::save:
        case Verb::load: {
            const auto words = numbers(order, world);
            const std::string text(reinterpret_cast<const char*>(words.data()), words.size() * sizeof words[0]);
            const std::string whose = text.substr(0, whose_bytes), folder = text.substr(whose_bytes, text.find('\0', whose_bytes) - whose_bytes);
            const bool save = order.verb == Verb::save;
            const int64_t mine = save ? slice.save(order.slot, order.position, folder, whose) : slice.load(order.slot, order.position, folder, whose);
            std::vector<int64_t> all(size_t(world.size()));
            world.all_gather(&mine, sizeof mine, all.data());
            break;
        }
        case Verb::report: counted.report(); break;
        case Verb::end: return;
        default: throw Error("rank 0 gave order " + std::to_string(int64_t(order.verb)) + ", which this rank does not know; install the same mpsplit");
        }
    }
}

} // namespace mpsplit
