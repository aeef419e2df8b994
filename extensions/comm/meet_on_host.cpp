#include "meet_on_host.h"

#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>

#include "shm_link.h"

namespace mpsplit {

namespace {

class NearAndFar final : public Link {
  public:
    NearAndFar(std::shared_ptr<Link> near, std::shared_ptr<Link> far, std::vector<bool> is_near)
        : Link(far->rank, far->size),
          near_(std::move(near)),
          far_(std::move(far)),
          is_near_(std::move(is_near)) {
        timeout = far_->timeout;
        near_->outer = far_->outer = this;
    }

    std::string name() const override { return far_->name() + "+" + near_->name(); }

    // The far part is begun first and waited for last. What goes through memory moves whether or
    // not the network does, so no circle of ranks can wait for each other.
    void start(Out out, In in) override {
        far_->start(take(out, false), take(in, false));
        near_->start(take(out, true), take(in, true));
    }

    void finish() override {
        near_->finish();
        far_->finish();
    }

    void look_around() override {
        near_->look_around();
        far_->look_around();
    }

    void tell_waits_for(int peer) override {
        near_->tell_waits_for(peer);
        far_->tell_waits_for(peer);
    }

    int waits_for(int other) override {
        return is_near_[other] ? near_->waits_for(other) : far_->waits_for(other);
    }

    void tell_last_words(const std::string& why) override { far_->tell_last_words(why); }
    void hear_last_words() override { far_->hear_last_words(); }
    void tell_silent(int other) override {
        near_->tell_silent(other);
        far_->tell_silent(other);
    }

    std::string described(int other) const override {
        return is_near_[other] ? near_->described(other) : far_->described(other);
    }

  private:
    template <typename Part>
    Part take(const Part& part, bool near) const {
        return part.peer >= 0 && is_near_[part.peer] == near ? part : Part{};
    }

    std::shared_ptr<Link> near_, far_;
    std::vector<bool> is_near_;
};

struct Card {  // what a rank tells of itself
    char host[160];
    int pid;
    int descriptor;  // of the memory, where this rank made it
    uint64_t cookie;
};

template <typename T>
std::vector<T> everybodys(Comm& comm, const T& mine) {
    std::vector<T> all(comm.size());
    comm.all_gather(&mine, sizeof mine, all.data());
    return all;
}

uint64_t any_number() {
    std::random_device device;
    return uint64_t(device()) << 32 | device();
}

}  // namespace

std::string this_host() {
    char name[64] = {};
    gethostname(name, sizeof name - 1);
    std::string boot;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
    return std::string(name) + " " + boot;
}

std::shared_ptr<Link> meet(std::shared_ptr<Link> far) {
    std::vector<int> world(far->size);
    std::iota(world.begin(), world.end(), 0);
    Comm comm(far, world);
    Card mine{};
    std::strncpy(mine.host, this_host().c_str(), sizeof mine.host - 1);
    mine.pid = getpid();
    mine.cookie = any_number();
    mine.descriptor = -1;

    std::vector<Neighbour> neighbours;
    auto cards = everybodys(comm, mine);
    for (int r = 0; r < far->size; ++r)
        if (!std::strcmp(cards[r].host, mine.host)) neighbours.push_back({r, cards[r].pid});
    const int lead = neighbours[0].rank, ranks = int(neighbours.size());

    std::shared_ptr<Memory> memory;
    if (lead == far->rank && ranks > 1) memory = make_memory(ranks, mine.cookie, mine.descriptor);
    cards = everybodys(comm, mine);
    if (lead != far->rank && cards[lead].descriptor >= 0)
        memory = open_memory(ranks, cards[lead].cookie, cards[lead].pid, cards[lead].descriptor);

    // one of a host that cannot open it, and none uses it
    const auto opened = everybodys<int>(comm, memory != nullptr);
    if (mine.descriptor >= 0) close(mine.descriptor);
    const bool all = std::all_of(neighbours.begin(), neighbours.end(),
                                 [&](const Neighbour& n) { return opened[n.rank]; });
    if (ranks < 2 || !all) return far;
    std::vector<bool> is_near(far->size);
    for (const auto& n : neighbours) is_near[n.rank] = true;
    auto near = shm_link(far->rank, far->size, std::move(neighbours), std::move(memory));
    return std::make_shared<NearAndFar>(std::move(near), std::move(far), std::move(is_near));
}

std::shared_ptr<Comm> world_over(std::shared_ptr<Link> link, bool shared) {
    if (shared && link->size > 1) link = meet(std::move(link));
    std::vector<int> all(link->size);
    std::iota(all.begin(), all.end(), 0);
    return std::make_shared<Comm>(std::move(link), std::move(all));
}

}  // namespace mpsplit
