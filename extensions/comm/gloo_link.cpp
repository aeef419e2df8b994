#include "gloo_link.h"

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "meet_in_folder.h"
#include "wait.h"
#include "watch.h"

namespace mpsplit {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds for_ever = std::chrono::hours(24 * 365);  // 0 would be gloo's own default
constexpr milliseconds last_words{
    5000};  // what a rank sent before it ended may still be on its way
constexpr size_t short_message = 64 << 10;  // bytes
// short messages that a rank is ready to hear from each peer before it asks for them
constexpr uint64_t ahead = 4;
constexpr milliseconds word_of_others{
    500};  // gloo and processes of this host may tell of an end before the watch does

milliseconds patience(double seconds) {
    return seconds > 0 ? milliseconds(int64_t(seconds * 1000)) : for_ever;
}

// The first address of the interface, or that other machines may reach; Debian's hostname resolves
// to 127.0.1.1, which they cannot.
std::string own_address(const std::string& interface) {
    ifaddrs* all = nullptr;
    const int failed = getifaddrs(&all);
    const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(failed ? nullptr : all,
                                                                 freeifaddrs);
    for (const int family : {AF_INET, AF_INET6})
        for (auto* at = owner.get(); at; at = at->ifa_next) {
            if (!at->ifa_addr || at->ifa_addr->sa_family != family || !(at->ifa_flags & IFF_UP))
                continue;
            if (interface.empty() ? family != AF_INET || at->ifa_flags & IFF_LOOPBACK
                                  : interface != at->ifa_name)
                continue;
            char text[NI_MAXHOST];
            const socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
            if (getnameinfo(at->ifa_addr, length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) ==
                0)
                return text;
        }
    if (interface.empty()) return "127.0.0.1";
    throw Error("this host has no network interface " + interface +
                " with an address; `ip address` lists them");
}

// What gloo's ranks write for each other to read, when another communicator carries it. All ranks
// set their keys in step.
class Messages final : public gloo::rendezvous::Store {
  public:
    explicit Messages(Comm& meeting) : meeting_(meeting) {}

    void set(const std::string& key, const std::vector<char>& data) override {
        int64_t lengths[2] = {int64_t(key.size()), int64_t(data.size())}, longest = 0;
        std::vector<int64_t> all(2 * size_t(meeting_.size()));
        meeting_.all_gather(lengths, sizeof lengths, all.data());
        for (size_t r = 0; r < all.size(); r += 2) longest = std::max(longest, all[r] + all[r + 1]);
        std::vector<char> mine(longest), everybody(longest * meeting_.size());
        std::memcpy(mine.data(), key.data(), key.size());
        std::memcpy(mine.data() + key.size(), data.data(), data.size());
        meeting_.all_gather(mine.data(), longest, everybody.data());
        const char* at = everybody.data();
        for (size_t r = 0; r < all.size(); r += 2, at += longest)
            values_[std::string(at, all[r])] =
                std::vector<char>(at + all[r], at + all[r] + all[r + 1]);
    }

    std::vector<char> get(const std::string& key) override { return values_.at(key); }
    void wait(const std::vector<std::string>&) override {}  // all have set when set returns
    void wait(const std::vector<std::string>&, const milliseconds&) override {}

  private:
    Comm& meeting_;
    std::map<std::string, std::vector<char>> values_;
};

// gloo sends once it has heard that the other end is ready to receive: a message takes the time of
// two. So short messages have places where they are awaited before anybody asks for them. gloo does
// not tell how long a message was: a short one begins with its length, and a long one is announced
// by a short one that is nothing but its length.
class Gloo final : public Link {
  public:
    Gloo(int rank, int size, gloo::rendezvous::Store& store, const std::string& interface,
         double seconds)
        : Link(rank, size),
          address_(own_address(interface)),
          context_(rank, size),
          sent_(size),
          received_(size),
          places_(size) {
        timeout = seconds;
        gloo::transport::tcp::attr attributes;
        attributes.hostname = address_;
        auto device = gloo::transport::tcp::CreateDevice(attributes);
        context_.setTimeout(patience(seconds));
        context_.connectFullMesh(store, device);
        for (int peer = 0; peer < size; ++peer)
            for (uint64_t i = 0; peer != rank && i < ahead; ++i) {
                Short& place = places_[peer].emplace_back();
                place.bytes.resize(Short::most);
                place.buffer = context_.createUnboundBuffer(place.bytes.data(), Short::most);
                place.buffer->recv(peer, Counted::short_slot(i));
            }
        going_.bytes.resize(Short::most);
        going_.buffer = context_.createUnboundBuffer(going_.bytes.data(), Short::most);
    }

    // All ranks of `self` together, a communicator over this.
    void watch(Comm& self) {
        watch_ = std::make_unique<Watch>(self, address_, timeout, [this] { interrupt(); });
    }

    std::string name() const override { return "gloo"; }

    void start(Out out, In in) override {
        out_ = out, in_ = in;
        guard(in.peer, [&] {
            if (in.peer < 0 || is_short(in.bytes)) return;
            coming_long_ = context_.createUnboundBuffer(in.data, in.bytes);
            coming_long_->recv(in.peer, Counted::long_slot(received_[in.peer].longs++, in.bytes));
        });
        guard(out.peer, [&] {
            if (out.peer < 0) return;
            const size_t bytes = going_.write(out.data, out.bytes);
            going_.buffer->send(out.peer, Counted::short_slot(sent_[out.peer].shorts++), 0, bytes);
            if (is_short(out.bytes)) return;
            going_long_ = context_.createUnboundBuffer(const_cast<void*>(out.data), out.bytes);
            going_long_->send(out.peer, Counted::long_slot(sent_[out.peer].longs++, out.bytes));
        });
    }

    void finish() override {
        // gloo's own timeout breaks all its connections
        const auto most = watch_ ? for_ever : patience(limit());
        const auto wait_to_send = [&](Buffer& buffer) {
            wait(out_.peer, buffer, [&] { return buffer.waitSend(most); });
        };
        if (in_.peer >= 0) take(most);
        if (coming_long_)
            wait(in_.peer, *coming_long_, [&] { return coming_long_->waitRecv(most); });
        if (out_.peer >= 0) wait_to_send(*going_.buffer);
        if (going_long_) wait_to_send(*going_long_);
        coming_long_.reset();
        going_long_.reset();
    }

    void look_around() override {
        if (!watch_) return;
        end_as_told();
        if (watch_->lost() >= 0) fail_for(watch_->lost());
    }

    void tell_waits_for(int peer) override {
        if (watch_) watch_->tell_waits_for(peer);
    }
    int waits_for(int other) override { return watch_ ? watch_->waits_for(other) : -1; }
    void hear_last_words() override {
        if (!watch_) return;
        await_word();
        end_as_told();
    }
    void tell_last_words(const std::string& why) override {
        if (watch_) watch_->tell_ended(rank, last_words_of(why));
    }
    void tell_silent(int other) override {
        if (watch_) watch_->tell_silent(other);
    }

  private:
    using Buffer = gloo::transport::UnboundBuffer;

    static bool is_short(size_t bytes) { return bytes <= short_message; }

    struct Short {  // a place for a short message: a length, and, where that is short, as many
                    // bytes
        static constexpr size_t head = sizeof(uint64_t), most = head + short_message;
        std::vector<std::byte> bytes;
        std::unique_ptr<Buffer> buffer;

        // How many bytes are to be sent.
        size_t write(const void* data, uint64_t length) {
            std::memcpy(bytes.data(), &length, head);
            if (!is_short(length)) return head;
            std::memcpy(bytes.data() + head, data, length);
            return head + length;
        }
        uint64_t length() const {
            uint64_t length = 0;
            std::memcpy(&length, bytes.data(), head);
            return length;
        }
        const std::byte* data() const { return bytes.data() + head; }
    };

    // Messages of a peer so far; their slots keep them in order. The length is in the slot of a
    // long one, so that gloo never takes one into a buffer of another length, at which it ends the
    // process.
    struct Counted {
        uint64_t shorts = 0, longs = 0;
        static uint64_t short_slot(uint64_t number) { return 2 * number; }
        static uint64_t long_slot(uint64_t number, uint64_t bytes) {
            return bytes << 17 | number % (1 << 16) << 1 | 1;
        }
    };

    // The next short message of in_.peer; its place is then ready for the one after those that are
    // awaited already.
    void take(milliseconds most) {
        const uint64_t number = received_[in_.peer].shorts++;
        Short& place = places_[in_.peer][number % ahead];
        guard(in_.peer, [&] {
            if (!place.buffer) throw gloo::IoException("the connection has closed");
        });
        wait(in_.peer, *place.buffer, [&] { return place.buffer->waitRecv(most); });
        if (place.length() != in_.bytes)
            throw other_length(in_.peer, place.length(), rank, in_.bytes);
        if (is_short(in_.bytes)) std::memcpy(in_.data, place.data(), in_.bytes);
        try {
            place.buffer->recv(in_.peer, Counted::short_slot(number + ahead));
        } catch (const gloo::Exception&) {
            place.buffer.reset();  // the peer has gone: missed once more is wanted of it
        }
    }

    // gloo's waits hear neither Ctrl-C nor, now and then, a peer's end; each tick of the watch
    // interrupts them to look around.
    template <typename Through>
    void wait(int peer, Buffer& buffer, Through is_through) {
        const Interruptible here(*this, buffer);
        Wait waiting(*this, peer);
        std::optional<Clock::time_point> left;
        guard(peer, [&] {
            for (int ticks = 0; !is_through(); ++ticks) {
                if (ticks > 0) waiting.look();  // what has just come may be its last words
                const auto now = Clock::now();
                if (!left && watch_->has_left(peer)) left = now;
                if (left && now > *left + last_words) fail_for(peer);
            }
        });
    }

    struct Interruptible {
        Interruptible(Gloo& gloo, Buffer& buffer) : gloo(gloo) { gloo.set_waiting(&buffer); }
        ~Interruptible() { gloo.set_waiting(nullptr); }
        Gloo& gloo;
    };

    void set_waiting(Buffer* buffer) {
        const std::lock_guard lock(waiting_mutex_);
        waiting_ = buffer;
    }

    void interrupt() {
        const std::lock_guard lock(waiting_mutex_);
        if (!waiting_) return;
        waiting_->abortWaitRecv();
        waiting_->abortWaitSend();
    }

    template <typename Act>
    void guard(int peer, Act act) {
        try {
            act();
        } catch (const gloo::Exception&) {
            // the connection to `peer` has closed, perhaps because it missed another rank
            if (!watch_) throw;
            await_word();
            outer->look_around();
            fail_for(watch_->lost() < 0 ? peer : watch_->lost());
        }
    }

    // Of who has gone and why, once something else tells that somebody has.
    void await_word() const {
        const auto began = Clock::now();
        while (watch_->lost() < 0 && watch_->silent() < 0 && watch_->ended() < 0 &&
               Clock::now() < began + word_of_others)
            std::this_thread::sleep_for(milliseconds(5));
    }

    // If somebody has told what all end for.
    void end_as_told() const {
        if (watch_->ended() >= 0) {
            watch_->tell_ended(watch_->ended(), watch_->why());
            throw has_ended(*outer, watch_->ended(), watch_->why());
        }
        if (watch_->silent() >= 0) throw did_not_answer(*outer, watch_->silent());
    }

    [[noreturn]] void fail_for(int lost) const {
        watch_->tell_lost(lost);
        fail("rank " + std::to_string(lost) + " has gone");
    }

    [[noreturn]] void fail(const std::string& what) const {
        throw Error(what + " (seen by rank " + std::to_string(rank) +
                    " over gloo); look for its own message, or start all ranks again");
    }

    const std::string address_;
    gloo::rendezvous::Context context_;
    std::vector<Counted> sent_, received_;    // by peer
    std::vector<std::vector<Short>> places_;  // of the next short messages, by peer
    Short going_;
    std::unique_ptr<Buffer> going_long_, coming_long_;
    Out out_;
    In in_;
    std::mutex waiting_mutex_;
    Buffer* waiting_ = nullptr;  // what the watch's thread interrupts
    std::unique_ptr<Watch> watch_;
};

std::shared_ptr<Link> watched(std::shared_ptr<Gloo> link) {
    std::vector<int> all(link->size);
    std::iota(all.begin(), all.end(), 0);
    Comm self(link, all);
    link->watch(self);
    return link;
}

// gloo throws what it likes while it connects.
template <typename Make>
std::shared_ptr<Link> met(int rank, int size, double timeout, Make make) {
    // it writes to peers that have gone, which would end a process that is not Python
    if (const auto before = std::signal(SIGPIPE, SIG_IGN); before != SIG_DFL)
        std::signal(SIGPIPE, before);
    try {
        return make();
    } catch (const Error&) {
        throw;
    } catch (const std::exception& wrong) {
        throw Error("rank " + std::to_string(rank) + " did not meet the other " +
                    std::to_string(size - 1) + " ranks within " + seconds_text(timeout) +
                    " over gloo: one of them ended meanwhile, or no network is between them; start "
                    "all again (" +
                    wrong.what() + ")");
    }
}

}  // namespace

std::shared_ptr<Link> gloo_link(int rank, int size, const std::string& folder,
                                const std::string& interface, double timeout) {
    return met(rank, size, timeout, [&] {
        const Meeting meeting(rank, size, folder, timeout);
        gloo::rendezvous::FileStore store(meeting.run().string());
        // all are through when the watch stands, and nobody needs the run any more
        return watched(std::make_shared<Gloo>(rank, size, store, interface, timeout));
    });
}

std::shared_ptr<Link> gloo_link_over(Comm& meeting, const std::string& interface, double timeout) {
    return met(meeting.rank(), meeting.size(), timeout, [&] {
        Messages store(meeting);
        return watched(
            std::make_shared<Gloo>(meeting.rank(), meeting.size(), store, interface, timeout));
    });
}

}  // namespace mpsplit
