// Ranks talking to each other: what a transport must do (Link), and what everybody else uses
// (Comm).
//
// A Link moves bytes between two ranks. Every collective is written once, over Links, in
// collectives.cpp. So the order in which a sum is taken depends on the positions in the group and
// on nothing else: all transports give the same bits, on all ranks, run after run.
//
// The rule of waits, on all transports: who is waited for answers within `timeout` seconds, or the
// wait ends with an Error that names the rank which held up all (wait.h). The error ends the group.
// Only a rank that rests may wait as long as it takes, and it ends when another one has died.
//
// The rule of lengths: each message carries its own, and one of another length than is expected is
// an Error too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "link_counts.h"

namespace mpsplit {

// A peer has died, does not answer, or is not in the same collective. The message names it.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// f16 and bf16 are added in float and rounded to nearest even at each step of the tree, i8 in int
// and saturated at each step; i32 and i64 wrap around.
enum class Type { f32, f16, bf16, i8, i32, i64 };
size_t size_of(Type type);

struct Out {
    int peer = -1;  // -1: nothing to send
    const void* data = nullptr;
    size_t bytes = 0;
};

struct In {
    int peer = -1;  // -1: nothing to receive
    void* data = nullptr;
    size_t bytes = 0;
};

// A transport between the ranks of the world. Messages from one rank to another arrive in order.
// One thread at a time.
class Link {
  public:
    Link(int rank, int size) : rank(rank), size(size), passed(size_t(size)) {}
    virtual ~Link() = default;

    // Begins a message out, a message in, or both; finish() returns when both are through. Crossed
    // messages never block each other.
    virtual void start(Out out, In in) = 0;
    virtual void finish() = 0;
    virtual std::string name() const = 0;

    void move(Out out, In in) {
        start(out, in);
        finish();
    }

    double limit() const { return resting ? 0 : timeout; }  // seconds that a peer is waited for now

    // What ranks know of each other besides messages.
    virtual void look_around() {}  // by waits that take long; throws when a rank has died or is
                                   // silent, as far as is known
    virtual void tell_waits_for(int /*peer*/) {}  // by a rank whose wait takes long; -1: no longer
    // what that one has told; may be asked by any thread
    virtual int waits_for(int /*rank*/) { return -1; }
    virtual void tell_silent(int /*rank*/) {}  // by a rank that ends for it
    // by a rank that ends for a reason of its own: the others' waits throw it (wait.h)
    virtual void tell_last_words(const std::string& /*why*/) {}
    // When a rank has gone: throws if one has told what all end for.
    virtual void hear_last_words() {}
    virtual std::string described(int rank) const { return "rank " + std::to_string(rank); }

    const int rank, size;
    double timeout = 30;  // seconds that a silent peer is waited for; 0 for ever
    // what comes next may take as long as it likes, and is no wait that counts
    bool resting = false;
    std::vector<Passed> passed;  // by rank
    Link* outer = this;          // a link within another one: that other one
    std::mutex busy;
};

// Called now and then by long waits; may throw. The Python binding looks for Ctrl-C here.
inline std::function<void()> while_waiting = [] {};

struct Traffic {
    uint64_t bytes = 0;  // of payload that this rank handed over
    uint64_t calls = 0;
    double seconds = 0;
};

// A group of ranks. Positions in the group are its ranks; all of them call each collective, in the
// same order.
class Comm {
  public:
    Comm(std::shared_ptr<Link> link, std::vector<int> members);
    Comm(int rank, int size);  // null: no peers, right shapes

    int rank() const { return rank_; }
    int size() const { return size_; }
    const std::shared_ptr<Link>& link() const { return link_; }
    std::string name() const { return link_ ? link_->name() : "null"; }
    Traffic traffic() const { return traffic_; }

    void all_reduce(void* x, size_t count, Type type);  // sum, in place
    // equal blocks, in the order of the ranks
    void all_gather(const void* block, size_t bytes, void* all);
    void broadcast(void* x, size_t bytes, int root);
    void send(const void* x, size_t bytes, int peer);
    void recv(void* x, size_t bytes, int peer);
    // send and recv at once
    void exchange(const void* out, size_t out_bytes, int to, void* in, size_t in_bytes, int from);
    void barrier();
    // nullptr on ranks that are not in it
    std::shared_ptr<Comm> group(const std::vector<int>& ranks) const;

  private:
    void move(Out out, In in);
    void doubling(std::byte* x, size_t count, Type type, int ranks);
    void halving(std::byte* x, size_t count, Type type, int ranks);
    std::byte* scratch(size_t bytes);
    void check_peer(int peer) const;

    std::shared_ptr<Link> link_;  // null: none
    std::vector<int> members_;    // position in the group -> rank in the world
    int rank_, size_;
    Traffic traffic_;
    std::vector<std::byte> scratch_;
};

}  // namespace mpsplit
