#include "cache_file.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

namespace mpsplit {
namespace {

struct Head {
    char magic[16] = "mpsplit kv 1\n";
    char whose[64] = {};
    int64_t positions = 0, stored = 0, attentions = 0, page_bytes = 0;
};
static_assert(sizeof(Head) == 112);

Head head_of(const std::string& whose, std::span<KeyValueCache* const> caches, int positions) {
    Head head;
    whose.copy(head.whose, sizeof head.whose);
    head.positions = positions;
    head.attentions = int64_t(caches.size());
    if (!caches.empty()) {
        head.stored = int64_t(caches[0]->stored());
        head.page_bytes = int64_t(caches[0]->page_bytes());
    }
    return head;
}

// Of whole words, all of which count, and their order.
class Checksum {
  public:
    void add(const void* data, size_t bytes) {
        for (size_t i = 0; i + 8 <= bytes; i += 8) {
            uint64_t word;
            std::memcpy(&word, static_cast<const char*>(data) + i, 8);
            sum_ = (sum_ ^ word) * 0x9e3779b97f4a7c15;
            sum_ ^= sum_ >> 29;
        }
    }
    uint64_t sum() const { return sum_; }

  private:
    uint64_t sum_ = 0x6d7073706c697421;
};

using File = std::unique_ptr<std::FILE, decltype(&std::fclose)>;

size_t needed_pages(int positions) {
    return size_t(positions + KeyValueCache::page_positions - 1) / KeyValueCache::page_positions;
}

}  // namespace

Outcome save(const std::string& path, const std::string& whose,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages,
             int positions) {
    const std::string unfinished = path + ".new";
    Checksum checksum;
    auto write = [&](std::FILE* file, const void* data, size_t bytes) {
        checksum.add(data, bytes);
        return std::fwrite(data, 1, bytes, file) == bytes;
    };
    auto write_all = [&] {
        File file(std::fopen(unfinished.c_str(), "wb"), &std::fclose);
        if (!file) return false;
        const Head head = head_of(whose, caches, positions);
        bool good = write(file.get(), &head, sizeof head);
        for (const KeyValueCache* cache : caches)
            for (const int32_t page : pages.first(needed_pages(positions)))
                good = good && write(file.get(), cache->page(page), cache->page_bytes());
        const uint64_t sum = checksum.sum();
        good = good && std::fwrite(&sum, 1, sizeof sum, file.get()) == sizeof sum;
        return std::fclose(file.release()) == 0 && good;
    };
    std::error_code ignored;  // what cannot be made cannot be opened either
    if (positions == 0) {
        std::filesystem::remove(path, ignored);
        return Outcome::done;
    }
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
    if (write_all() && std::rename(unfinished.c_str(), path.c_str()) == 0) return Outcome::done;
    std::remove(unfinished.c_str());
    return Outcome::unwritable;
}

Outcome load(const std::string& path, const std::string& whose,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages,
             int positions) {
    const File file(std::fopen(path.c_str(), "rb"), &std::fclose);
    if (!file) return Outcome::missing;
    Checksum checksum;
    auto read = [&](void* data, size_t bytes) {
        const bool good = std::fread(data, 1, bytes, file.get()) == bytes;
        checksum.add(data, bytes);
        return good;
    };
    const Head expected = head_of(whose, caches, positions);
    Head head;
    if (!read(&head, sizeof head) ||
        std::memcmp(head.magic, expected.magic, sizeof head.magic) != 0)
        return Outcome::damaged;
    if (std::memcmp(&head, &expected, sizeof head) != 0) return Outcome::other;
    for (KeyValueCache* cache : caches)
        for (const int32_t page : pages.first(needed_pages(positions)))
            if (!read(cache->page(page), cache->page_bytes())) return Outcome::damaged;
    uint64_t sum;
    const bool whole =
        std::fread(&sum, 1, sizeof sum, file.get()) == sizeof sum && std::fgetc(file.get()) == EOF;
    return whole && sum == checksum.sum() ? Outcome::done : Outcome::damaged;
}

}  // namespace mpsplit
