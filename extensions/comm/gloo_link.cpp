#include "gloo_link.h"

#include <arpa/inet.h>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <ifaddrs.h>
#include <map>
#include <net/if.h>
#include <sstream>

namespace mpsplit {

namespace {

using std::chrono::milliseconds;

milliseconds patience(double seconds) {
    return seconds > 0 ? milliseconds(int64_t(seconds * 1000)) : milliseconds(std::chrono::hours(24 * 365)); // 0 would be gloo's own default
}

std::string seconds_text(double seconds) {
    std::ostringstream text;
    text << seconds << " s";
    return text.str();
}

// The first address that other machines may reach; Debian's hostname resolves to 127.0.1.1, which they cannot.
std::string own_address() {
    std::string found = "127.0.0.1";
    ifaddrs* all = nullptr;
    if (getifaddrs(&all) != 0) return found;
    for (auto* at = all; at; at = at->ifa_next) {
        if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET || !(at->ifa_flags & IFF_UP) || at->ifa_flags & IFF_LOOPBACK) continue;
        char text[INET_ADDRSTRLEN];
        found = inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(at->ifa_addr)->sin_addr, text, sizeof text);
        break;
    }
    freeifaddrs(all);
    return found;
}

// What gloo's ranks write for each other to read, when another communicator carries it. All ranks set their keys in step.
class Messages final : public gloo::rendezvous::Store {
  public:
    explicit Messages(Comm& meeting) : meeting_(meeting) {}

    void set(const std::string& key, const std::vector<char>& data) override {
        int64_t lengths[2] = {int64_t(key.size()), int64_t(data.size())}, longest = 0;
        std::vector<int64_t> all(2 * meeting_.size());
        meeting_.all_gather(lengths, sizeof lengths, all.data());
        for (int r = 0; r < meeting_.size(); ++r) longest = std::max(longest, all[2 * r] + all[2 * r + 1]);
        std::vector<char> mine(longest), everybody(longest * meeting_.size());
        std::memcpy(mine.data(), key.data(), key.size());
        std::memcpy(mine.data() + key.size(), data.data(), data.size());
        meeting_.all_gather(mine.data(), longest, everybody.data());
        for (int r = 0; r < meeting_.size(); ++r) {
            const char* at = everybody.data() + r * longest;
            values_[std::string(at, all[2 * r])] = std::vector<char>(at + all[2 * r], at + all[2 * r] + all[2 * r + 1]);
        }
    }

    std::vector<char> get(const std::string& key) override { return values_.at(key); }
    void wait(const std::vector<std::string>&) override {} // all have set when set returns
    void wait(const std::vector<std::string>&, const milliseconds&) override {}

  private:
    Comm& meeting_;
    std::map<std::string, std::vector<char>> values_;
};

class Gloo final : public Link {
  public:
    Gloo(int rank, int size, gloo::rendezvous::Store& store, const std::string& interface, double seconds)
        : Link(rank, size), context_(rank, size), sent_(size), received_(size) {
        timeout = seconds;
        gloo::transport::tcp::attr address;
        if (interface.empty()) address.hostname = own_address();
        else address.iface = interface;
        auto device = gloo::transport::tcp::CreateDevice(address);
        context_.setTimeout(patience(seconds));
        context_.connectFullMesh(store, device);
    }

    std::string name() const override { return "gloo"; }

    void start(Out out, In in) override {
        out_ = out, in_ = in;
        guard(in.peer, [&] {
            if (in.peer < 0) return;
            coming_ = context_.createUnboundBuffer(in.data, in.bytes);
            coming_->recv(in.peer, received_[in.peer]++);
        });
        guard(out.peer, [&] {
            if (out.peer < 0) return;
            going_ = context_.createUnboundBuffer(const_cast<void*>(out.data), out.bytes);
            going_->send(out.peer, sent_[out.peer]++);
        });
    }

    void finish() override {
        guard(in_.peer, [&] { if (coming_) coming_->waitRecv(patience(timeout)); });
        guard(out_.peer, [&] { if (going_) going_->waitSend(patience(timeout)); });
        coming_.reset();
        going_.reset();
    }

  private:
    template <typename Act> void guard(int peer, Act act) {
        try {
            act();
        } catch (const gloo::Exception& wrong) {
            const bool slow = std::strstr(wrong.what(), "imed out");
            throw Error("rank " + std::to_string(peer) + (slow ? " did not answer for " + seconds_text(timeout) : " has gone") +
                        " (seen by rank " + std::to_string(rank) + " over gloo); look for its own message, or start all ranks again");
        }
    }

    gloo::rendezvous::Context context_;
    std::vector<uint64_t> sent_, received_; // messages so far; their numbers keep them in order
    Out out_;
    In in_;
    std::unique_ptr<gloo::transport::UnboundBuffer> going_, coming_;
};

// gloo throws what it likes while it connects.
template <typename Make> std::shared_ptr<Link> met(int rank, int size, double timeout, Make make) {
    try {
        return make();
    } catch (const Error&) {
        throw;
    } catch (const std::exception& wrong) {
        throw Error("rank " + std::to_string(rank) + " did not meet the other " + std::to_string(size - 1) + " ranks within " +
                    seconds_text(timeout) + " over gloo; are all started, with the same store and a network between them? (" + wrong.what() +
                    ")");
    }
}

} // namespace

std::shared_ptr<Link> gloo_link(int rank, int size, const std::string& folder, const std::string& interface, double timeout) {
    return met(rank, size, timeout, [&] {
        std::filesystem::create_directories(folder);
        gloo::rendezvous::FileStore store(folder);
        auto link = std::make_shared<Gloo>(rank, size, store, interface, timeout);
        std::vector<int> all(size);
        for (int r = 0; r < size; ++r) all[r] = r;
        Comm(link, all).barrier();
        for (const auto& file : store.getAllKeyFilePaths()) std::filesystem::remove(file);
        return link;
    });
}

std::shared_ptr<Link> gloo_link_over(Comm& meeting, const std::string& interface, double timeout) {
    return met(meeting.rank(), meeting.size(), timeout, [&] {
        Messages store(meeting);
        return std::make_shared<Gloo>(meeting.rank(), meeting.size(), store, interface, timeout);
    });
}

} // namespace mpsplit
