// Vector types of the compiler's, so that the loop is the same on every machine; four sums hide the
// latency.
#include "read_through.h"

#include <omp.h>

namespace mpsplit {

using Line = uint64_t __attribute__((vector_size(64), aligned(8), may_alias));

uint64_t read_through(const void* data, size_t bytes, int threads) {
    uint64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(^ : total)
    {
        size_t quads = bytes / 256, me = omp_get_thread_num(), all = omp_get_num_threads();
        const Line* lines = static_cast<const Line*>(data);
        Line a = {}, b = {}, c = {}, d = {};
        for (size_t i = quads * me / all; i < quads * (me + 1) / all; i++) {
            for (int l = 0; l < 4; l++) __builtin_prefetch(lines + 4 * i + l + 64);
            a ^= lines[4 * i], b ^= lines[4 * i + 1], c ^= lines[4 * i + 2], d ^= lines[4 * i + 3];
        }
        a ^= b ^ c ^ d;
        for (int i = 0; i < 8; i++) total ^= a[i];
    }
    return total;
}

}  // namespace mpsplit
