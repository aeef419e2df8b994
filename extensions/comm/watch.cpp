#include "watch.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <utility>

#include "wait.h"

namespace mpsplit {

namespace {

constexpr int probe_after = 2, probe_every = 1, probes = 5;  // seconds, seconds, how many

struct Card {  // where a rank listens
    sockaddr_storage address;
    socklen_t length;
    uint64_t cookie;  // strangers do not know it
};

struct Greeting {
    uint64_t cookie;
    int32_t rank;
};

// Closes its descriptor, unless it was given away.
struct Socket {
    explicit Socket(int descriptor) : descriptor(descriptor) {}
    Socket(const Socket&) = delete;
    ~Socket() {
        if (descriptor >= 0) close(descriptor);
    }
    int give() { return std::exchange(descriptor, -1); }
    int descriptor;
};

void check(bool good, const char* what) {
    if (!good) throw Error(std::string("could not ") + what + " (" + std::strerror(errno) + ")");
}

template <typename T>
void set(int socket, int level, int option, T value) {
    check(setsockopt(socket, level, option, &value, sizeof value) == 0,
          "set up a connection to another rank");
}

void limit_waits(int socket, double seconds) {
    const auto whole = time_t(seconds);
    const timeval limit{whole, suseconds_t((seconds - double(whole)) * 1e6)};
    set(socket, SOL_SOCKET, SO_RCVTIMEO, limit);
    set(socket, SOL_SOCKET, SO_SNDTIMEO, limit);
}

void probe(int socket) {
    set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(socket, IPPROTO_TCP, TCP_KEEPIDLE, probe_after);
    set(socket, IPPROTO_TCP, TCP_KEEPINTVL, probe_every);
    set(socket, IPPROTO_TCP, TCP_KEEPCNT, probes);
}

Card listen_at(const std::string& address, int ranks, double timeout, Socket& listener) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_flags = AI_NUMERICHOST;
    hints.ai_socktype = SOCK_STREAM;
    check(getaddrinfo(address.c_str(), nullptr, &hints, &found) == 0,
          "read this rank's own address");
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
    listener.descriptor = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(listener.descriptor >= 0 &&
              bind(listener.descriptor, found->ai_addr, found->ai_addrlen) == 0 &&
              listen(listener.descriptor, ranks) == 0,
          "listen for the other ranks");
    limit_waits(listener.descriptor, timeout);
    Card card{};
    card.length = sizeof card.address;
    check(getsockname(listener.descriptor, reinterpret_cast<sockaddr*>(&card.address),
                      &card.length) == 0,
          "find its own port");
    std::random_device any;
    card.cookie = uint64_t(any()) << 32 | any();
    return card;
}

// Processes that end by themselves do not always take their objects down first.
std::mutex all_mutex;
std::vector<Watch*> all_watches;

void part_in_good_order() {
    const std::lock_guard lock(all_mutex);
    for (Watch* watch : all_watches) watch->say_goodbye();
}

}  // namespace

Watch::Watch(Comm& comm, const std::string& address, double timeout, std::function<void()> tick)
    : sockets_(comm.size(), -1), left_(comm.size()), waits_for_(comm.size()) {
    for (auto& nobody : waits_for_) nobody = -1;
    connect_all(comm, address, timeout);
    thread_ = std::thread([this, tick = std::move(tick)] { watch(tick); });
    const std::lock_guard lock(all_mutex);
    static const int registered = std::atexit(part_in_good_order);
    (void)registered;
    all_watches.push_back(this);
}

Watch::~Watch() {
    {
        const std::lock_guard lock(all_mutex);
        std::erase(all_watches, this);
    }
    say_goodbye();
    done_ = true;
    thread_.join();
    for (const int socket : sockets_)
        if (socket >= 0) close(socket);
}

// Each rank connects to those below it; a greeting tells which rank it is.
void Watch::connect_all(Comm& comm, const std::string& address, double timeout) {
    Socket listener(-1);
    std::vector<Card> cards(comm.size());
    const Card mine = listen_at(address, comm.size(), timeout, listener);
    comm.all_gather(&mine, sizeof mine, cards.data());
    for (int r = 0; r < comm.rank(); ++r) {
        Socket to(socket(cards[r].address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        check(to.descriptor >= 0, "make a socket");
        limit_waits(to.descriptor, timeout);
        check(connect(to.descriptor, reinterpret_cast<sockaddr*>(&cards[r].address),
                      cards[r].length) == 0,
              "reach another rank");
        const Greeting greeting{cards[r].cookie, comm.rank()};
        check(send(to.descriptor, &greeting, sizeof greeting, MSG_NOSIGNAL) == sizeof greeting,
              "greet another rank");
        sockets_[r] = to.give();
    }
    for (int missing = comm.size() - 1 - comm.rank(); missing > 0;) {
        Socket from(accept4(listener.descriptor, nullptr, nullptr, SOCK_CLOEXEC));
        check(from.descriptor >= 0, "hear from the other ranks");
        limit_waits(from.descriptor, timeout);
        Greeting greeting{};
        if (recv(from.descriptor, &greeting, sizeof greeting, MSG_WAITALL) != sizeof greeting ||
            greeting.cookie != mine.cookie)
            continue;
        sockets_.at(greeting.rank) = from.give();
        --missing;
    }
    for (const int socket : sockets_)
        if (socket >= 0) probe(socket);
}

void Watch::watch(const std::function<void()>& tick) {
    using Clock = std::chrono::steady_clock;
    std::vector<pollfd> peers;
    peers.reserve(sockets_.size());
    for (const int socket : sockets_) peers.push_back({socket, POLLIN, 0});
    for (auto next = Clock::now() + watch_tick; !done_;) {
        const auto rest = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
        poll(peers.data(), peers.size(), std::max(0, int(rest.count())));
        for (size_t r = 0; r < peers.size(); ++r)
            if (peers[r].revents && !hear(int(r))) peers[r].fd = -1;
        if (Clock::now() < next) continue;
        tick();
        next = Clock::now() + watch_tick;
    }
}

// False when there is no more to hear.
bool Watch::hear(int peer) {
    Word word{};
    int nobody = -1;
    if (recv(sockets_[peer], &word, sizeof word, MSG_WAITALL) != sizeof word) {
        if (!left_[peer]) lost_.compare_exchange_strong(nobody, peer);
        return false;
    }
    if (word.kind == Kind::goodbye) left_[peer] = true;
    if (word.kind == Kind::lost) lost_.compare_exchange_strong(nobody, word.rank);
    if (word.kind == Kind::silent) silent_.compare_exchange_strong(nobody, word.rank);
    if (word.kind == Kind::waits_for) waits_for_[peer] = word.rank;
    return word.kind != Kind::ended || hear_why(peer, word);
}

bool Watch::hear_why(int peer, Word word) {
    if (word.length < 0 || size_t(word.length) > most_last_words) return false;
    std::string why(size_t(word.length), ' ');
    if (recv(sockets_[peer], why.data(), why.size(), MSG_WAITALL) != ssize_t(why.size()))
        return false;
    if (ended_ < 0 && (lost_ < 0 || lost_ == word.rank)) why_ = why, ended_ = word.rank;
    return true;
}

void Watch::tell_lost(int rank) const { tell_all({Kind::lost, rank}); }

void Watch::tell_silent(int rank) const { tell_all({Kind::silent, rank}); }

void Watch::tell_waits_for(int peer) const { tell_all({Kind::waits_for, peer}); }

void Watch::say_goodbye() const { tell_all({Kind::goodbye, -1}); }

void Watch::tell_ended(int rank, const std::string& why) const {
    tell_all({Kind::ended, rank, int32_t(why.size())}, why);
}

void Watch::tell_all(Word word, const std::string& text) const {
    std::string all(sizeof word, ' ');
    std::memcpy(all.data(), &word, sizeof word);
    all += text;
    for (const int socket : sockets_)
        if (socket >= 0) send(socket, all.data(), all.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace mpsplit
