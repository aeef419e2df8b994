// Vector types of the compiler's, so that the loop is the same on every machine; four sums hide the
// latency.
#include "read_through.h"

namespace mpsplit {

using Line = uint64_t __attribute__((vector_size(64), aligned(8), may_alias));

uint64_t read_through(const void* data, size_t bytes, ThreadPool& pool) {
    const size_t quads = bytes / 256, parts = size_t(16) * pool.threads();
    std::atomic<uint64_t> total = 0;
    pool.parallel(int(parts), [&](size_t part, int) {
        const Line* lines = static_cast<const Line*>(data);
        Line a = {}, b = {}, c = {}, d = {};
        for (size_t i = quads * part / parts; i < quads * (part + 1) / parts; i++) {
            for (int l = 0; l < 4; l++) __builtin_prefetch(lines + 4 * i + l + 64);
            a ^= lines[4 * i], b ^= lines[4 * i + 1], c ^= lines[4 * i + 2], d ^= lines[4 * i + 3];
        }
        a ^= b ^ c ^ d;
        uint64_t sum = 0;
        for (int i = 0; i < 8; i++) sum ^= a[i];
        total ^= sum;
    });
    return total;
}

}  // namespace mpsplit
