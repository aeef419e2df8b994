#include "cache_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

namespace mpsplit {
namespace {

namespace fs = std::filesystem;

struct Head {
    char magic[16] = "mpsplit kv 3\n";
    char identity[160] = {};
    int64_t rank = 0, first = 0, last = 0, stored = 0, attentions = 0, page_bytes = 0;
};
static_assert(sizeof(Head) == 224);

Head head_of(const Segment& segment, std::span<KeyValueCache* const> caches) {
    Head head;
    segment.identity.copy(head.identity, sizeof head.identity);
    head.rank = segment.rank, head.first = segment.first, head.last = segment.last;
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

class Descriptor {
  public:
    Descriptor() = default;  // of nothing
    Descriptor(const fs::path& path, int flags)
        : fd_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
    ~Descriptor() { close(); }
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    explicit operator bool() const { return fd_ >= 0; }

    bool write(const void* data, size_t bytes) {
        const char* at = static_cast<const char*>(data);
        while (bytes) {
            const ssize_t written = ::write(fd_, at, bytes);
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) return false;
            at += written, bytes -= size_t(written);
        }
        return true;
    }
    bool sync() { return fsync(fd_) == 0; }
    bool is_file() const {
        struct stat about;
        return fstat(fd_, &about) == 0 && S_ISREG(about.st_mode);
    }
    // To read, and to be closed in place of this.
    std::FILE* stream() {
        std::FILE* made = fdopen(fd_, "rb");
        if (made) fd_ = -1;
        return made;
    }
    bool close() {
        const int fd = std::exchange(fd_, -1);
        return fd < 0 || ::close(fd) == 0;
    }

  private:
    int fd_ = -1;
};

// The names in it.
bool sync_folder(const fs::path& folder) {
    Descriptor opened(folder, O_RDONLY | O_DIRECTORY);
    return opened && opened.sync();
}

// With those above it; what another rank makes meanwhile will do.
bool make_folder(const fs::path& folder) {
    if (mkdir(folder.c_str(), 0777) == 0) return sync_folder(folder.parent_path());
    if (errno == ENOENT && folder.has_relative_path())
        return make_folder(folder.parent_path()) &&
               (mkdir(folder.c_str(), 0777) == 0 ? sync_folder(folder.parent_path())
                                                 : errno == EEXIST);
    return errno == EEXIST;
}

// Another rank of this host may remove the folder while it is empty.
Descriptor new_file(const fs::path& path) {
    for (int tries = 1;; tries++) {
        if (!make_folder(path.parent_path())) return {};
        Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
        if (file || errno != ENOENT || tries == 3) return file;
    }
}

bool write_all(Descriptor& file, const Segment& segment, std::span<KeyValueCache* const> caches,
               std::span<const int32_t> pages) {
    Checksum checksum;
    const auto write = [&](const void* data, size_t bytes) {
        checksum.add(data, bytes);
        return file.write(data, bytes);
    };
    const Head head = head_of(segment, caches);
    if (!write(&head, sizeof head)) return false;
    for (const KeyValueCache* cache : caches)
        for (const int32_t page : pages)
            if (!write(cache->page(page), cache->page_bytes())) return false;
    const uint64_t sum = checksum.sum();
    return file.write(&sum, sizeof sum);
}

int page_of(int position) { return position / KeyValueCache::page_positions; }

int pages_of(int positions) {
    return page_of(positions) + (positions % KeyValueCache::page_positions != 0);
}

std::span<const int32_t> pages_in(std::span<const int32_t> pages, const Segment& segment) {
    const int first = page_of(segment.first);
    return pages.subspan(size_t(first), size_t(pages_of(segment.last) - first));
}

}  // namespace

Saved save(const std::string& path, const Segment& segment, std::span<KeyValueCache* const> caches,
           std::span<const int32_t> pages, const std::function<void()>& when_read) {
    Descriptor file = new_file(path);
    if (!file) return {Outcome::unwritable, errno};
    bool good = write_all(file, segment, caches, pages_in(pages, segment));
    if (good) when_read();
    good = good && file.sync() && file.close() && sync_folder(fs::path(path).parent_path());
    if (good) {
        std::error_code ignored;  // it was there a moment ago
        return {Outcome::done, int64_t(fs::file_size(path, ignored))};
    }
    const int wrong = errno;
    std::remove(path.c_str());
    return {Outcome::unwritable, wrong};
}

Outcome load(const std::string& path, const Segment& segment, int until,
             std::span<KeyValueCache* const> caches, std::span<const int32_t> pages) {
    Descriptor opened(path, O_RDONLY | O_NONBLOCK);  // a pipe would wait for who writes into it
    if (!opened) return Outcome::missing;
    if (!opened.is_file()) return Outcome::damaged;
    const std::unique_ptr<std::FILE, decltype(&std::fclose)> file(opened.stream(), &std::fclose);
    if (!file) return Outcome::missing;
    Checksum checksum;
    const auto read = [&](void* data, size_t bytes) {
        const bool good = std::fread(data, 1, bytes, file.get()) == bytes;
        checksum.add(data, bytes);
        return good;
    };
    const Head expected = head_of(segment, caches);
    Head head;
    if (!read(&head, sizeof head) ||
        std::memcmp(head.magic, expected.magic, sizeof head.magic) != 0)
        return Outcome::damaged;
    if (std::memcmp(&head, &expected, sizeof head) != 0) return Outcome::other;
    std::vector<uint8_t> beyond(
        size_t(expected.page_bytes));  // what is read for its checksum alone
    for (KeyValueCache* cache : caches)
        for (int page = page_of(segment.first); page < pages_of(segment.last); page++) {
            uint8_t* to = page < pages_of(until) ? cache->page(pages[page]) : beyond.data();
            if (!read(to, cache->page_bytes())) return Outcome::damaged;
        }
    uint64_t sum;
    const bool whole =
        std::fread(&sum, 1, sizeof sum, file.get()) == sizeof sum && std::fgetc(file.get()) == EOF;
    return whole && sum == checksum.sum() ? Outcome::done : Outcome::damaged;
}

void sweep(const std::string& folder, const std::string& begin,
           const std::vector<std::string>& saves) {
    std::error_code ignored;  // what cannot be removed now is found by the next sweep
    std::vector<fs::path> going;
    for (fs::directory_iterator at(folder, ignored), end; at != end; at.increment(ignored)) {
        if (ignored) break;
        const std::string name = at->path().filename();
        const auto occurs = [&](const std::string& save) {
            return name.find(save) != std::string::npos;
        };
        if (name.starts_with(begin) && std::none_of(saves.begin(), saves.end(), occurs))
            going.push_back(at->path());
    }
    for (const fs::path& path : going) fs::remove(path, ignored);
    fs::remove(folder, ignored);
}

}  // namespace mpsplit
