#include "shm_link.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>

#include "wait.h"

namespace mpsplit {

namespace {

constexpr uint32_t ring_bytes = 64 << 10;
// a message begins with a line that holds its length, and ends on a line's end
constexpr uint32_t line = 64;
// bytes after which the reader is told, so that both ends copy at once
constexpr uint32_t portion = 4096;
constexpr timespec look_after{0, 100'000'000};

struct Ring {
    alignas(line) std::atomic<uint32_t> written;  // bytes so far, modulo 2^32
    alignas(line) std::atomic<uint32_t> read;
    alignas(line) std::byte data[ring_bytes];
};

struct Seat {  // one a rank
    alignas(line) std::atomic<uint32_t> asleep;
    std::atomic<int> waits_for;  // 1 + the rank, once it has waited for long
};

struct Head {
    alignas(line) uint64_t cookie;
    std::atomic<int> lost;    // 1 + the rank that somebody found dead
    std::atomic<int> silent;  // 1 + the rank that somebody waited for to no avail
};

static_assert(std::atomic<uint32_t>::is_always_lock_free);

void breathe() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    asm volatile("yield");
#endif
}

int cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                       : int(std::thread::hardware_concurrency());
}

uint32_t whole_lines(uint32_t bytes) { return (bytes + line - 1) & ~(line - 1); }

}  // namespace

class Memory {
  public:
    Memory(int descriptor, int ranks)
        : ranks_(ranks),
          at_(mmap(nullptr, bytes(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)) {}
    ~Memory() {
        if (mapped()) munmap(at_, bytes(ranks_));
    }
    Memory(const Memory&) = delete;

    static size_t bytes(int ranks) {
        return sizeof(Head) + ranks * sizeof(Seat) + size_t(ranks) * ranks * sizeof(Ring);
    }
    bool mapped() const { return at_ != MAP_FAILED; }
    Head& head() { return *static_cast<Head*>(at_); }
    Seat& seat(int i) {
        return reinterpret_cast<Seat*>(static_cast<std::byte*>(at_) + sizeof(Head))[i];
    }
    Ring& ring(int from, int to) {
        return reinterpret_cast<Ring*>(&seat(ranks_))[from * ranks_ + to];
    }

  private:
    int ranks_;
    void* at_;
};

std::shared_ptr<Memory> make_memory(int ranks, uint64_t cookie, int& descriptor) {
    descriptor = int(syscall(SYS_memfd_create, "mpsplit", 1u));  // 1: closed on exec
    if (descriptor < 0 || ftruncate(descriptor, off_t(Memory::bytes(ranks))) != 0) return nullptr;
    auto memory = std::make_shared<Memory>(descriptor, ranks);
    if (!memory->mapped()) return nullptr;
    memory->head().cookie = cookie;
    return memory;
}

std::shared_ptr<Memory> open_memory(int ranks, uint64_t cookie, int pid, int descriptor) {
    const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(descriptor);
    const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) return nullptr;
    const off_t length = lseek(file, 0, SEEK_END);  // in another container this may be any file
    auto memory =
        length == off_t(Memory::bytes(ranks)) ? std::make_shared<Memory>(file, ranks) : nullptr;
    close(file);
    return memory && memory->mapped() && memory->head().cookie == cookie ? memory : nullptr;
}

namespace {

// One message on its way into a ring.
struct Writer {
    Ring* ring = nullptr;
    const std::byte* data = nullptr;
    size_t bytes = 0, left = 0;
    bool announced = false;

    bool busy() const { return ring && (!announced || left > 0); }

    uint32_t room() const {
        return ring_bytes - (ring->written.load(std::memory_order_relaxed) -
                             ring->read.load(std::memory_order_acquire));
    }

    // Writes the length or a portion; false when there is no room.
    bool push() {
        const uint32_t space = room(), at = ring->written.load(std::memory_order_relaxed);
        if (space == 0) return false;
        uint32_t take = 0, begin = 0;
        if (!announced) {
            const uint64_t length = bytes;
            std::memcpy(ring->data + at % ring_bytes, &length, sizeof length);
            announced = true;
            begin = line;
        }
        take = uint32_t(std::min<size_t>(left, std::min(space - begin, portion)));
        const uint32_t place = (at + begin) % ring_bytes,
                       first = std::min(take, ring_bytes - place);
        std::memcpy(ring->data + place, data, first);
        std::memcpy(ring->data, data + first, take - first);
        data += take, left -= take;
        ring->written.store(at + begin + whole_lines(take), std::memory_order_release);
        return true;
    }
};

// One message on its way out of a ring.
struct Reader {
    Ring* ring = nullptr;
    std::byte* data = nullptr;
    size_t bytes = 0, left = 0;
    bool announced = false;

    bool busy() const { return ring && (!announced || left > 0); }

    uint32_t ready() const {
        return ring->written.load(std::memory_order_acquire) -
               ring->read.load(std::memory_order_relaxed);
    }

    // Reads the length or a portion; false when nothing is there. `length` is set to what the
    // sender announced.
    bool pull(uint64_t& length) {
        const uint32_t there = ready(), at = ring->read.load(std::memory_order_relaxed);
        if (there == 0) return false;
        uint32_t begin = 0;
        if (!announced) {
            std::memcpy(&length, ring->data + at % ring_bytes, sizeof length);
            if (length != bytes) return true;
            announced = true;
            begin = line;
        }
        const uint32_t take = uint32_t(std::min<size_t>(left, std::min(there - begin, portion)));
        const uint32_t place = (at + begin) % ring_bytes,
                       first = std::min(take, ring_bytes - place);
        std::memcpy(data, ring->data + place, first);
        std::memcpy(data + first, ring->data, take - first);
        data += take, left -= take;
        ring->read.store(at + begin + whole_lines(take), std::memory_order_release);
        return true;
    }
};

class Shm final : public Link {
  public:
    Shm(int rank, int size, std::vector<Neighbour> neighbours, std::shared_ptr<Memory> memory)
        : Link(rank, size),
          neighbours_(std::move(neighbours)),
          memory_(std::move(memory)),
          place_(size, -1) {
        for (size_t i = 0; i < neighbours_.size(); ++i) {
            place_[neighbours_[i].rank] = int(i);
            // a handle stays with its process even when the number is given again; -1 on old
            // kernels
            handles_.push_back(int(syscall(SYS_pidfd_open, neighbours_[i].pid, 0)));
        }
        if (int(neighbours_.size()) > cores()) spins_ = 0;  // the peer needs this very core
    }

    ~Shm() override {
        for (const int handle : handles_)
            if (handle >= 0) close(handle);
    }

    std::string name() const override { return "shm"; }

    void start(Out out, In in) override {
        const int me = place_[rank];
        to_ = out.peer >= 0 ? place_[out.peer] : -1;
        from_ = in.peer >= 0 ? place_[in.peer] : -1;
        writer_ = {}, reader_ = {};
        if (to_ >= 0)
            writer_ = {&memory_->ring(me, to_), static_cast<const std::byte*>(out.data), out.bytes,
                       out.bytes};
        if (from_ >= 0)
            reader_ = {&memory_->ring(from_, me), static_cast<std::byte*>(in.data), in.bytes,
                       in.bytes};
        advance();
    }

    void finish() override {
        std::optional<Wait> wait;
        for (unsigned idle = 0; writer_.busy() || reader_.busy();) {
            if (advance()) {
                idle = 0;
                if (wait) wait->goes_on();
            } else if (idle < spins_)
                breathe(), ++idle;
            else if (idle < spins_ + yields)
                sched_yield(), ++idle;
            else if (sleep()) {
                if (!wait) wait.emplace(*this, neighbours_[reader_.busy() ? from_ : to_].rank);
                wait->look();
            }
        }
    }

    // What another rank of this host has found.
    void look_around() override {
        if (const int silent = memory_->head().silent) throw did_not_answer(*outer, silent - 1);
    }

    void tell_waits_for(int peer) override { memory_->seat(place_[rank]).waits_for = 1 + peer; }

    int waits_for(int other) override { return memory_->seat(place_[other]).waits_for - 1; }

    // The first to be found is the one that all ranks name.
    void tell_silent(int other) override {
        int nobody = 0;
        memory_->head().silent.compare_exchange_strong(nobody, 1 + other);
    }

    std::string described(int other) const override {
        return Link::described(other) + " (process " + std::to_string(pid_of(other)) +
               " on this host)";
    }

  private:
    static constexpr unsigned yields = 20;

    bool advance() {
        bool moved = false;
        uint64_t length = reader_.bytes;
        if (writer_.busy() && writer_.push()) moved = true, wake(to_);
        if (reader_.busy() && reader_.pull(length)) moved = true, wake(from_);
        if (length != reader_.bytes)
            throw other_length(neighbours_[from_].rank, length, rank, reader_.bytes);
        return moved;
    }

    // Either this sees the peer asleep, or the peer, before it sleeps, sees what we have just done.
    void wake(int peer) {
        auto& asleep = memory_->seat(peer).asleep;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (asleep.load(std::memory_order_relaxed) && asleep.exchange(0))
            syscall(SYS_futex, &asleep, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }

    // Until a peer has moved; true when none has for a while, and all of them live.
    bool sleep() {
        auto& asleep = memory_->seat(place_[rank]).asleep;
        asleep.store(1);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const bool can_move =
            (writer_.busy() && writer_.room() > 0) || (reader_.busy() && reader_.ready() > 0);
        const bool timed_out =
            !can_move && syscall(SYS_futex, &asleep, FUTEX_WAIT, 1, &look_after, nullptr, 0) != 0 &&
            errno == ETIMEDOUT;
        asleep.store(0);
        if (timed_out) look_for_the_dead();
        return timed_out;
    }

    void look_for_the_dead() {
        auto& lost = memory_->head().lost;
        int found = lost.load();
        for (const int peer : {to_, from_}) {
            const bool needed =
                peer >= 0 && (peer == to_ ? writer_.busy() || (peer == from_ && reader_.busy())
                                          : reader_.busy());
            if (found || !needed || alive(peer)) continue;
            if (advance()) return;  // its last words
            const int gone = 1 + neighbours_[peer].rank;
            // the first to be found is the one that all ranks name
            lost.compare_exchange_strong(found, gone);
            if (!found) found = gone;
        }
        if (found) outer->hear_last_words();
        if (found)
            throw Error(described(found - 1) + " has died, seen by rank " + std::to_string(rank) +
                        "; was there memory left?");
    }

    int pid_of(int world_rank) const { return neighbours_[place_[world_rank]].pid; }

    bool alive(int peer) const {
        if (handles_[peer] < 0) return kill(neighbours_[peer].pid, 0) == 0 || errno != ESRCH;
        pollfd ended{handles_[peer], POLLIN, 0};  // true of a zombie too
        return poll(&ended, 1, 0) == 0;
    }

    std::vector<Neighbour> neighbours_;
    std::shared_ptr<Memory> memory_;
    std::vector<int> place_;    // rank in the world -> place on this host, or -1
    std::vector<int> handles_;  // pidfds
    unsigned spins_ = 3000;     // about 50 us
    int to_ = -1, from_ = -1;
    Writer writer_;
    Reader reader_;
};

}  // namespace

std::shared_ptr<Link> shm_link(int rank, int size, std::vector<Neighbour> neighbours,
                               std::shared_ptr<Memory> memory) {
    return std::make_shared<Shm>(rank, size, std::move(neighbours), std::move(memory));
}

}  // namespace mpsplit
