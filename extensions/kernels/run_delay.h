// How long a thread was ready to run and on no core, by the kernel's own count.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace mpsplit {

// Of the thread that asks; another one that asks later begins from nothing.
class RunDelay {
  public:
    RunDelay() = default;
    ~RunDelay() { forget(); }
    RunDelay(const RunDelay&) = delete;

    // ns since this thread asked before; 0 the first time, and where the kernel does not count
    int64_t more() {
        if (const pid_t me = gettid(); me != thread_) {
            forget();
            thread_ = me;
            file_ = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
            so_far_ = read();
        }
        const int64_t before = so_far_;
        so_far_ = read();
        return so_far_ - before;
    }

  private:
    // "RUN DELAY SLICES"
    int64_t read() const {
        char text[80];
        const ssize_t length = file_ < 0 ? -1 : pread(file_, text, sizeof text - 1, 0);
        if (length <= 0) return 0;
        text[length] = 0;
        char* second = nullptr;
        std::strtoll(text, &second, 10);
        return std::strtoll(second, nullptr, 10);
    }
    void forget() {
        if (file_ >= 0) close(file_);
        file_ = -1;
    }

    pid_t thread_ = 0;
    int file_ = -1;
    int64_t so_far_ = 0;
};

}  // namespace mpsplit
