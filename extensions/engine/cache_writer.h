// Writes what the cache holds beside the steps, in a thread of its own.
//
// In: pages that nobody changes until `saved` says that they were read. Out: files, in the order in
// which they were asked for. Invariant: no step ever waits for a disk.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "cache_file.h"

namespace mpsplit {

class CacheWriter {
  public:
    CacheWriter() = default;
    ~CacheWriter();  // when all is done
    CacheWriter(const CacheWriter&) = delete;

    // One at a time: the next when `saved` has told of the one before.
    void save(const std::string& path, const Segment& segment,
              std::span<KeyValueCache* const> caches, std::span<const int32_t> pages);
    void sweep(const std::string& folder, const std::string& begin,
               const std::vector<std::string>& saves);

    // How the last save went; syncing or writing while anything is to be done.
    Saved saved();
    void wait();  // until nothing is to be done

  private:
    void add(std::function<void()> job);
    void work();

    std::mutex mutex_;  // of all that follows
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;  // the first is under way
    bool reading_ = false, ending_ = false;
    Saved last_;
    std::thread thread_;  // from the first job on
};

}  // namespace mpsplit
