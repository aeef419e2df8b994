#include "mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr size_t huge = size_t(2) << 20;
constexpr int populate_read = 22;  // MADV_POPULATE_READ, which older headers lack

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
    for (std::string name; rollup >> name;)
        if (size_t kilobytes; name == "FilePmdMapped:" && rollup >> kilobytes) return kilobytes << 10;
    return 0;
}

// The file's bytes in anonymous memory, which the kernel gives in large pages.
bool copy(int file, uint8_t* to, size_t bytes) {
    if (mmap(to, rounded_up(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) return false;
    madvise(to, rounded_up(bytes), MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes;) {
        const ssize_t got = pread(file, to + at, bytes - at, off_t(at));
        if (got <= 0) return false;
        at += size_t(got);
    }
    return mprotect(to, rounded_up(bytes), PROT_READ) == 0;
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
        if (fine && reading == Reading::whole && bytes >= huge) {
            // what is not in memory yet is read in large pages where kernel and file system can; what is there already stays as it is
            madvise(memory, bytes, MADV_HUGEPAGE);
            madvise(memory, bytes, populate_read);
            copied = in_large_pages() - before < bytes / 32 * 31;  // the last page is a small one
            fine = !copied || copy(file, memory, bytes);
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
