#include "mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr size_t huge = size_t(2) << 20;
constexpr int populate_read = 22;  // MADV_POPULATE_READ, which older headers lack
constexpr size_t piece = size_t(32) << 20;

size_t rounded_up(size_t bytes) { return (bytes + huge - 1) / huge * huge; }

// Addresses for `bytes` that begin at a multiple of 2 MB, as large pages must; nullptr when there are none.
uint8_t* addresses(size_t bytes) {
    const size_t room = rounded_up(bytes) + huge;
    void* all = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    auto* first = static_cast<uint8_t*>(all);
    auto* aligned = first + (huge - reinterpret_cast<uintptr_t>(first) % huge) % huge;
    if (aligned > first) munmap(first, aligned - first);
    munmap(aligned + rounded_up(bytes), first + room - (aligned + rounded_up(bytes)));
    return aligned;
}

// Bytes of files that this process sees through large pages.
size_t in_large_pages() {
    std::ifstream rollup("/proc/self/smaps_rollup");
    size_t found = 0;
    for (std::string name; rollup >> name;)
        if (size_t kilobytes; (name == "FilePmdMapped:" || name == "ShmemPmdMapped:") && rollup >> kilobytes) found += kilobytes << 10;
    return found;
}

// A file that only memory has, made for one reader to use up: a memfd that may still be sealed. Others, those of tmpfs too, may not.
bool is_used_up(int file) { return fcntl(file, F_GET_SEALS) == 0; }

// The file's bytes in anonymous memory, which the kernel gives in large pages. What is used up is not held twice.
bool copy(const std::string& path, int file, uint8_t* to, size_t bytes) {
    const int emptied = is_used_up(file) ? open(path.c_str(), O_RDWR | O_CLOEXEC) : -1;
    if (mmap(to, rounded_up(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) return false;
    madvise(to, rounded_up(bytes), MADV_HUGEPAGE);
    size_t at = 0;
    for (ssize_t got = 1; got > 0 && at < bytes; at += size_t(std::max<ssize_t>(got, 0))) {
        got = pread(file, to + at, std::min(bytes - at, piece), off_t(at));
        if (got > 0 && emptied >= 0) fallocate(emptied, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(at), off_t(got));
    }
    if (emptied >= 0) close(emptied);
    return at == bytes && mprotect(to, rounded_up(bytes), PROT_READ) == 0;
}

}  // namespace

Mapped::Mapped(const std::string& path, Reading reading) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat found = {};
    bool fine = file >= 0 && fstat(file, &found) == 0;
    bytes = fine ? size_t(found.st_size) : 0;
    uint8_t* memory = nullptr;
    if (fine && bytes) {
        const size_t before = in_large_pages();
        memory = addresses(bytes);
        fine = memory && mmap(memory, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
        if (fine && reading == Reading::here_and_there) madvise(memory, bytes, MADV_NOHUGEPAGE);
        if (fine && reading == Reading::whole && bytes >= huge) {
            // what is not in memory yet is read in large pages where kernel and file system can; what is there already stays as it is
            madvise(memory, bytes, MADV_HUGEPAGE);
            madvise(memory, bytes, populate_read);
            copied = in_large_pages() - before < bytes / 32 * 31;  // the last page is a small one
            fine = !copied || copy(path, file, memory, bytes);
        }
    }
    const int why = errno;
    if (file >= 0) close(file);
    data = memory;
    if (!fine) throw Failure(path + " cannot be read: " + std::strerror(why));
}

Mapped::~Mapped() {
    if (data) munmap(const_cast<uint8_t*>(data), rounded_up(bytes));
}

Mapped::Mapped(Mapped&& other) noexcept { *this = std::move(other); }

Mapped& Mapped::operator=(Mapped&& other) noexcept {
    std::swap(data, other.data);
    std::swap(bytes, other.bytes);
    std::swap(copied, other.copied);
    return *this;
}

}  // namespace mpsplit
