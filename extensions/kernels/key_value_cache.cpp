#include "key_value_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#include "page.h"

namespace mpsplit {

KeyValueCache::KeyValueCache(int heads, int dim, int pages, Stored stored)
    : heads(heads), dim(dim), width(rounded_up(dim, lanes)) {
    reserve(pages, stored);
}

KeyValueCache::~KeyValueCache() {
    if (memory_) munmap(memory_, pages_ * page_bytes());
}

size_t KeyValueCache::page_bytes(Stored stored) const {
    return heads * with_type(stored, [&](auto zero) { return Page<decltype(zero)>::bytes(*this); });
}

void KeyValueCache::reserve(int pages, Stored stored) {
    const size_t page = page_bytes(stored);
    void* memory = mmap(nullptr, pages * page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    if (memory_) munmap(memory_, pages_ * page_bytes());
    memory_ = static_cast<uint8_t*>(memory);
    pages_ = pages, stored_ = stored, head_bytes_ = page / heads;
}

void KeyValueCache::forget(std::span<const int32_t> pages) {
    static const auto grain = size_t(sysconf(_SC_PAGESIZE));  // which memory_ is a multiple of
    for (size_t first = 0, last = 0; first < pages.size(); first = last) {
        do last++;
        while (last < pages.size() && pages[last] == pages[last - 1] + 1);
        // of neighbours together: what they share with others stays
        const size_t begin = (pages[first] * page_bytes() + grain - 1) / grain * grain;
        const size_t end = (pages[last - 1] + 1) * page_bytes() / grain * grain;
        if (begin < end) madvise(memory_ + begin, end - begin, MADV_DONTNEED);
    }
}

void KeyValueCache::read_keys(const int32_t* pages, int head, int positions, float* to) const {
    with_type(stored_, [&]<class T>(T) {
        for (int p = 0; p < positions; p++) {
            const Page<T> page = Seen{*this, pages, head}.page<T>(p);
            const int at = p % page_positions;
            const T* key = page.keys + size_t(at / lanes) * dim * lanes + at % lanes;
            const float scale = scaled<T> ? page.key_scales[at] : 1;
            for (int d = 0; d < dim; d++) *to++ = scale * widened_one(key[d * lanes]);
        }
    });
}

void KeyValueCache::read_values(const int32_t* pages, int head, int positions, float* to) const {
    with_type(stored_, [&]<class T>(T) {
        for (int p = 0; p < positions; p++) {
            const Page<T> page = Seen{*this, pages, head}.page<T>(p);
            const float scale = scaled<T> ? page.value_scales[p % page_positions] : 1;
            for (int d = 0; d < dim; d++)
                *to++ = scale * widened_one(page.values[size_t(p % page_positions) * width + d]);
        }
    });
}

}  // namespace mpsplit
