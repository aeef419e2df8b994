#include "cache_writer.h"

#include <csignal>

namespace mpsplit {
namespace {

// While it lives, a thread that begins hears no signals: they are for those that wait for them.
class WithoutSignals {
  public:
    WithoutSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

}  // namespace

CacheWriter::~CacheWriter() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard held(mutex_);
        ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void CacheWriter::save(const std::string& path, const Segment& segment,
                       std::span<KeyValueCache* const> caches, std::span<const int32_t> pages) {
    const std::vector<KeyValueCache*> all(caches.begin(), caches.end());
    const std::vector<int32_t> table(pages.begin(), pages.end());  // the slot gets other pages soon
    {
        const std::lock_guard held(mutex_);
        reading_ = true;
    }
    add([this, path, segment, all, table] {
        const auto when_read = [this] {
            const std::lock_guard held(mutex_);
            reading_ = false;
        };
        const Saved saved = mpsplit::save(path, segment, all, table, when_read);
        const std::lock_guard held(mutex_);
        reading_ = false, last_ = saved;
    });
}

void CacheWriter::sweep(const std::string& folder, const std::string& begin,
                        const std::vector<std::string>& saves) {
    add([=] { mpsplit::sweep(folder, begin, saves); });
}

Saved CacheWriter::saved() {
    const std::lock_guard held(mutex_);
    if (jobs_.empty()) return last_;
    return {reading_ ? Outcome::writing : Outcome::syncing};
}

void CacheWriter::wait() {
    std::unique_lock held(mutex_);
    changed_.wait(held, [&] { return jobs_.empty(); });
}

void CacheWriter::add(std::function<void()> job) {
    {
        const std::lock_guard held(mutex_);
        jobs_.push_back(std::move(job));
        if (!thread_.joinable()) {
            const WithoutSignals around;
            thread_ = std::thread(&CacheWriter::work, this);
        }
    }
    changed_.notify_all();
}

void CacheWriter::work() {
    std::unique_lock held(mutex_);
    for (;;) {
        changed_.wait(held, [&] { return ending_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        const auto& job = jobs_.front();  // stays where it is while others are added behind it
        held.unlock();
        job();
        held.lock();
        jobs_.pop_front();
        changed_.notify_all();
    }
}

}  // namespace mpsplit
