// Every collective, once, over the transport's messages.
//
// The tree of a sum over n ranks, p the largest power of two in n: position r >= p is first added
// to r - p; then positions p/2 apart are added, then p/4, ... 1. Short and long sums take the same
// tree, so an element's sum does not depend on how long the array is. A group of one, and null,
// have nobody to talk to.
#include <bit>
#include <chrono>
#include <cstring>

#include "comm.h"
#include "sum.h"

namespace mpsplit {

// bytes up to which the whole array is exchanged at each step
constexpr size_t short_sum = 64 << 10;

namespace {

using Clock = std::chrono::steady_clock;

// Counts one call: its payload, unless it fails, and its time.
class Counted {
  public:
    Counted(Traffic& traffic, size_t bytes) : traffic_(traffic), began_(Clock::now()) {
        traffic_.bytes += bytes;
        ++traffic_.calls;
    }
    ~Counted() { traffic_.seconds += std::chrono::duration<double>(Clock::now() - began_).count(); }

  private:
    Traffic& traffic_;
    Clock::time_point began_;
};

}  // namespace

Comm::Comm(std::shared_ptr<Link> link, std::vector<int> members)
    : link_(std::move(link)), members_(std::move(members)), rank_(-1), size_(int(members_.size())) {
    for (int i = 0; i < size_; ++i)
        if (members_[i] == link_->rank) rank_ = i;
}

Comm::Comm(int rank, int size) : rank_(rank), size_(size) {
    if (size < 1 || rank < 0 || rank >= size)
        throw std::invalid_argument("rank " + std::to_string(rank) + " of " + std::to_string(size));
    for (int i = 0; i < size; ++i) members_.push_back(i);
}

void Comm::check_peer(int peer) const {
    if (peer < 0 || peer >= size_ || peer == rank_)
        throw std::invalid_argument("rank " + std::to_string(rank_) + " has no peer " +
                                    std::to_string(peer) + " in a group of " +
                                    std::to_string(size_));
}

void Comm::move(Out out, In in) {
    if (out.peer >= 0) out.peer = members_[out.peer];
    if (in.peer >= 0) in.peer = members_[in.peer];
    const int awaited = in.peer >= 0 ? in.peer : out.peer;
    if (awaited < 0) return;  // both are empty
    const auto began = Clock::now();
    link_->move(out, in);
    if (out.peer >= 0) link_->passed[out.peer].sent(out.bytes);
    if (!link_->resting)
        link_->passed[awaited].wait(std::chrono::nanoseconds(Clock::now() - began).count());
}

std::byte* Comm::scratch(size_t bytes) {
    if (scratch_.size() < bytes) scratch_.resize(bytes);
    return scratch_.data();
}

void Comm::all_reduce(void* data, size_t count, Type type) {
    const size_t bytes = count * size_of(type);
    const bool talks = link_ && size_ > 1 && count > 0;
    const Counted counted(traffic_, talks ? bytes : 0);
    if (!talks) return;
    const std::lock_guard lock(link_->busy);
    auto* x = static_cast<std::byte*>(data);
    const int ranks = int(std::bit_floor(unsigned(size_))),
              partner = rank_ < ranks ? rank_ + ranks : rank_ - ranks;
    if (rank_ >= ranks) {
        move({partner, x, bytes}, {});
        return move({}, {partner, x, bytes});  // the sum comes back whole
    }
    const bool folds = partner < size_;
    if (folds) {
        std::byte* other = scratch(bytes);
        move({}, {partner, other, bytes});
        add(type, x, x, other, count);
    }
    if (bytes <= short_sum)
        doubling(x, count, type, ranks);
    else
        halving(x, count, type, ranks);
    if (folds) move({partner, x, bytes}, {});
}

// Everybody adds everything: as many steps as the tree has levels.
void Comm::doubling(std::byte* x, size_t count, Type type, int ranks) {
    const size_t bytes = count * size_of(type);
    std::byte* other = scratch(bytes);
    for (int apart = ranks / 2; apart > 0; apart /= 2) {
        const int peer = rank_ ^ apart;
        move({peer, x, bytes}, {peer, other, bytes});
        if (rank_ < peer)
            add(type, x, x, other, count);
        else
            add(type, x, other, x, count);
    }
}

// Each step halves the part that a rank answers for; the way back gathers the finished parts.
void Comm::halving(std::byte* x, size_t count, Type type, int ranks) {
    struct Step {
        int peer;
        size_t mine, theirs, mine_count, theirs_count;  // begin and length of the two halves
    };
    const size_t element = size_of(type);
    std::byte* other = scratch(count * element);
    std::vector<Step> steps;
    size_t begin = 0, length = count;
    for (int apart = ranks / 2; apart > 0; apart /= 2) {
        const size_t low = length / 2, high = length - low;
        const bool lower = !(rank_ & apart);
        const Step s = lower ? Step{rank_ ^ apart, begin, begin + low, low, high}
                             : Step{rank_ ^ apart, begin + low, begin, high, low};
        move({s.peer, x + s.theirs * element, s.theirs_count * element},
             {s.peer, other, s.mine_count * element});
        std::byte* part = x + s.mine * element;
        if (lower)
            add(type, part, part, other, s.mine_count);
        else
            add(type, part, other, part, s.mine_count);
        steps.push_back(s);
        begin = s.mine, length = s.mine_count;
    }
    for (; !steps.empty(); steps.pop_back()) {
        const Step& s = steps.back();
        move({s.peer, x + s.mine * element, s.mine_count * element},
             {s.peer, x + s.theirs * element, s.theirs_count * element});
    }
}

// Round the ring: each step passes on the block that came last.
void Comm::all_gather(const void* block, size_t bytes, void* all) {
    const bool talks = link_ && size_ > 1 && bytes > 0;
    const Counted counted(traffic_, talks ? bytes : 0);
    auto* to = static_cast<std::byte*>(all);
    if (bytes == 0) return;
    if (!link_) {  // null: every rank has what we have
        for (int r = 0; r < size_; ++r) std::memcpy(to + r * bytes, block, bytes);
        return;
    }
    std::memcpy(to + rank_ * bytes, block, bytes);
    if (!talks) return;
    const std::lock_guard lock(link_->busy);
    const int right = (rank_ + 1) % size_, left = (rank_ + size_ - 1) % size_;
    for (int step = 0; step + 1 < size_; ++step) {
        const int out = (rank_ - step + size_) % size_, in = (left - step + size_) % size_;
        move({right, to + out * bytes, bytes}, {left, to + in * bytes, bytes});
    }
}

// A binomial tree below the root.
void Comm::broadcast(void* x, size_t bytes, int root) {
    if (root != rank_) check_peer(root);
    const bool talks = link_ && size_ > 1 && bytes > 0;
    const Counted counted(traffic_, talks && rank_ == root ? bytes : 0);
    if (!talks) return;
    const std::lock_guard lock(link_->busy);
    const int place = (rank_ - root + size_) % size_;  // the root's is 0
    const auto rank_at = [&](int p) { return (p + root) % size_; };
    int apart = 1;
    for (; apart < size_; apart *= 2)
        if (place & apart) {
            move({}, {rank_at(place - apart), x, bytes});
            break;
        }
    for (apart /= 2; apart > 0; apart /= 2)
        if (place + apart < size_) move({rank_at(place + apart), x, bytes}, {});
}

void Comm::send(const void* x, size_t bytes, int peer) {
    check_peer(peer);
    const Counted counted(traffic_, link_ ? bytes : 0);
    if (!link_ || bytes == 0) return;
    const std::lock_guard lock(link_->busy);
    move({peer, x, bytes}, {});
}

void Comm::recv(void* x, size_t bytes, int peer) {
    check_peer(peer);
    const Counted counted(traffic_, 0);
    if (!link_ || bytes == 0) return;
    const std::lock_guard lock(link_->busy);
    move({}, {peer, x, bytes});
}

void Comm::exchange(const void* out, size_t out_bytes, int to, void* in, size_t in_bytes,
                    int from) {
    check_peer(to), check_peer(from);
    const Counted counted(traffic_, link_ ? out_bytes : 0);
    if (!link_) return;
    const std::lock_guard lock(link_->busy);
    move(out_bytes ? Out{to, out, out_bytes} : Out{}, in_bytes ? In{from, in, in_bytes} : In{});
}

// After k rounds everybody knows of 2^k others that they are here.
void Comm::barrier() {
    const Counted counted(traffic_, 0);
    if (!link_) return;
    const std::lock_guard lock(link_->busy);
    char out = 0, in = 0;
    for (int apart = 1; apart < size_; apart *= 2)
        move({(rank_ + apart) % size_, &out, 1}, {(rank_ - apart + size_) % size_, &in, 1});
}

std::shared_ptr<Comm> Comm::group(const std::vector<int>& ranks) const {
    std::vector<int> members;
    int mine = -1;
    for (const int r : ranks) {
        if (r < 0 || r >= size_)
            throw std::invalid_argument("no rank " + std::to_string(r) + " in a group of " +
                                        std::to_string(size_));
        for (const int other : members)
            if (other == members_[r])
                throw std::invalid_argument("rank " + std::to_string(r) + " is in the group twice");
        if (r == rank_) mine = int(members.size());
        members.push_back(members_[r]);
    }
    if (mine < 0) return nullptr;
    return link_ ? std::make_shared<Comm>(link_, members)
                 : std::make_shared<Comm>(mine, int(ranks.size()));
}

}  // namespace mpsplit
