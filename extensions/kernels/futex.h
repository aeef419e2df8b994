// Sleeping until a number in memory changes, and waking whoever sleeps so.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace mpsplit {

// Between two looks at a number that may change at any moment
static inline void breathe() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    asm volatile("yield");
#endif
}

// Returns at once where the number is another one already, and may return for no reason.
static inline void sleep_while(std::atomic<uint32_t>& number, uint32_t is) {
    syscall(SYS_futex, &number, FUTEX_WAIT_PRIVATE, is, nullptr, nullptr, 0);
}

static inline void wake_one(std::atomic<uint32_t>& number) {
    syscall(SYS_futex, &number, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace mpsplit
