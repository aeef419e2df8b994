// A .kv file, as anybody may have written it: once as it is, and once with a checksum that fits.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cache_file.h"
#include "fuzz.h"

using namespace mpsplit;

namespace {

constexpr int heads = 2, dim = 6, pages = 5, until = 50;
constexpr size_t head_bytes = 224, sum_bytes = 8;
const int32_t table[] = {3, 1, 4};
const Segment segment = {std::string(128, 'a') + std::string(32, '0'), 32, 90, 1};

struct Caches {
    KeyValueCache first{heads, dim, pages, Stored::q8}, second{heads, dim, pages, Stored::q8};
    std::vector<KeyValueCache*> all = {&first, &second};

    void fill(uint8_t with) {
        for (KeyValueCache* cache : all)
            std::memset(cache->page(0), with, size_t(pages) * cache->page_bytes());
    }
};

Caches& caches() {
    static Caches made;
    return made;
}

// as cache_file.cpp sums it
uint64_t checksum(const uint8_t* data, size_t bytes) {
    uint64_t sum = 0x6d7073706c697421;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        std::memcpy(&word, data + i, 8);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum;
}

Bytes right;  // what was saved

// What was loaded is what the file says, and nothing lies where it was not asked for.
void check_loaded(const Bytes& data) {
    expect(std::equal(right.begin(), right.begin() + head_bytes, data.begin()),
           "a file of another text");
    size_t at = head_bytes;
    for (const KeyValueCache* cache : caches().all) {
        const size_t page = cache->page_bytes();
        expect(!std::memcmp(cache->page(table[1]), &data[at], page), "the page that was loaded");
        expect(*cache->page(table[2]) == 0xee, "a page beyond is left alone");
        at += 2 * page;
    }
    expect(data.size() == at + sum_bytes, "a file of another length");
}

Outcome try_load(const Bytes& data) {
    static const int file = memfd_create("kept", MFD_CLOEXEC);
    expect(ftruncate(file, 0) == 0 &&
               pwrite(file, data.data(), data.size(), 0) == ssize_t(data.size()),
           "a file in memory");
    caches().fill(0xee);
    const Outcome outcome =
        load("/proc/self/fd/" + std::to_string(file), segment, until, caches().all, table);
    for (const KeyValueCache* cache : caches().all)
        for (const int page : {0, 2, 3, 4})
            expect(*cache->page(page) == 0xee, "a page of somebody else");
    expect(outcome == Outcome::done || outcome == Outcome::other || outcome == Outcome::damaged,
           "an outcome of a file that is there");
    if (outcome == Outcome::done) check_loaded(data);
    return outcome;
}

}  // namespace

std::vector<Bytes> mpsplit::seeds() {
    const auto path = std::filesystem::temp_directory_path() /
                      ("mpsplit-fuzz-" + std::to_string(getpid()) + ".kv");
    caches().fill(7);
    const Saved saved = save(path, segment, caches().all, table, [] {});
    expect(saved.outcome == Outcome::done, "a segment is saved");
    std::ifstream file(path, std::ios::binary);
    Bytes data{std::istreambuf_iterator<char>(file), {}};
    std::filesystem::remove(path);
    right = data;
    expect(try_load(data) == Outcome::done, "what was saved is loaded");
    return {data};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, data + size);
    try_load(bytes);
    if (size < sum_bytes) return 0;
    const uint64_t sum = checksum(data, size - sum_bytes);
    std::memcpy(&bytes[size - sum_bytes], &sum, sum_bytes);
    try_load(bytes);
    return 0;
}
