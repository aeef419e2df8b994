#include "mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr size_t huge = Mapped::large_page;
constexpr int populate_read = 22;  // MADV_POPULATE_READ, which older headers lack
constexpr size_t piece = size_t(32) << 20;

size_t rounded_up(size_t bytes) { return (bytes + huge - 1) / huge * huge; }

// Addresses for `bytes` that begin at a multiple of 2 MB, as large pages must; nullptr when there
// are none.
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
        if (size_t kilobytes;
            (name == "FilePmdMapped:" || name == "ShmemPmdMapped:") && rollup >> kilobytes)
            found += kilobytes << 10;
    return found;
}

// A file that only memory has, made for one reader to use up: a memfd that may still be sealed.
// Others, those of tmpfs too, may not.
bool is_used_up(int file) { return fcntl(file, F_GET_SEALS) == 0; }

// Where memory for a file's end ends: with it, or with a large page that it fills at least half.
// Elsewhere no large page has room.
size_t end_of(size_t bytes) { return bytes % huge < huge / 2 ? bytes : rounded_up(bytes); }

// The file's bytes from `at` on in anonymous memory, which the kernel gives in large pages. What is
// used up is not held twice.
bool copy(const std::string& path, int file, uint8_t* to, size_t at, size_t bytes) {
    const int emptied = is_used_up(file) ? open(path.c_str(), O_RDWR | O_CLOEXEC) : -1;
    uint8_t* const first = to + at;
    const size_t room = end_of(bytes) - at;
    if (mmap(first, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        return false;
    madvise(first, room, MADV_HUGEPAGE);
    for (ssize_t got = 1; got > 0 && at < bytes; at += size_t(std::max<ssize_t>(got, 0))) {
        got = pread(file, to + at, std::min(bytes - at, piece), off_t(at));
        if (got > 0 && emptied >= 0)
            fallocate(emptied, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(at), off_t(got));
    }
    if (emptied >= 0) close(emptied);
    return at == bytes && mprotect(first, room, PROT_READ) == 0;
}

constexpr const char* large_pages = "/sys/kernel/mm/transparent_hugepage/enabled";

// What the kernel says of large pages in anonymous memory, or nothing where it gives them.
std::string without_large_pages() {
    if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) return "this process may have no large pages";
    std::ifstream file(large_pages);
    std::string said;
    if (!std::getline(file, said)) return std::string("there is no ") + large_pages;
    const bool never = said.find("[never]") != std::string::npos;
    return never ? std::string(large_pages) + " says never" : "";
}

bool map(const std::string& path, int file, uint8_t* to, size_t bytes, Reading reading) {
    if (mmap(to, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return false;
    if (reading == Reading::rows) madvise(to, bytes, MADV_NOHUGEPAGE);
    if (reading != Reading::whole || bytes < huge) return true;
    const size_t before = in_large_pages();
    // what is not in memory yet is read in large pages where kernel and file system can; what is
    // there already stays as it is
    madvise(to, bytes, MADV_HUGEPAGE);
    madvise(to, bytes, populate_read);
    if (!keeping().copies) return true;  // 4 KB pages here and there: nothing would be won
    const size_t whole_pages = bytes / huge * huge;  // the page cache has the end in small ones
    if (in_large_pages() - before < whole_pages / 32 * 31) return copy(path, file, to, 0, bytes);
    return end_of(bytes) == bytes || copy(path, file, to, whole_pages, bytes);
}

void map(const std::string& path, uint8_t* to, size_t bytes, Reading reading) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const bool fine = file >= 0 && map(path, file, to, bytes, reading);
    const int why = errno;
    if (file >= 0) close(file);
    if (!fine) throw Failure(path + " cannot be read: " + std::strerror(why));
}

}  // namespace

Keeping keeping() {
    const char* asked = std::getenv("MPSPLIT_WEIGHTS");
    const std::string how = asked ? asked : "";
    if (how == "map" || how == "copy") return {how == "copy", "MPSPLIT_WEIGHTS=" + how};
    if (!how.empty()) throw Failure("MPSPLIT_WEIGHTS=" + how + " is neither map nor copy");
    const std::string off = without_large_pages();
    return {off.empty(), off.empty() ? std::string(large_pages) + " gives large pages" : off};
}

Mapped::Mapped(const std::vector<Placed>& files, Reading reading) {
    keeping();  // a wrong word is an error on every machine
    std::vector<Piece> found;
    size_t end = 0;
    for (const auto& [path, begin] : files) {
        std::error_code wrong;
        const size_t size = std::filesystem::file_size(path, wrong);
        if (wrong) throw Failure(path + " cannot be read: " + wrong.message());
        if (begin % huge || begin < end)
            throw Failure(path + " lies where another file does; convert the package again");
        found.push_back({begin, size});
        end = begin + size;
    }
    Mapped room;  // gives the addresses back when a file cannot be mapped
    room.bytes = end;
    if (end) room.data = addresses(end);
    if (end && !room.data)
        throw Failure(files.back().path + " cannot be read: no addresses for " +
                      std::to_string(end) + " bytes");
    for (size_t i = 0; i < files.size(); i++)
        if (found[i].bytes)
            map(files[i].path, const_cast<uint8_t*>(room.data) + found[i].begin, found[i].bytes,
                reading);
    room.pieces = std::move(found);
    *this = std::move(room);
}

Mapped::~Mapped() {
    if (data) munmap(const_cast<uint8_t*>(data), rounded_up(bytes));
}

Mapped::Mapped(Mapped&& other) noexcept { *this = std::move(other); }

Mapped& Mapped::operator=(Mapped&& other) noexcept {
    std::swap(data, other.data);
    std::swap(bytes, other.bytes);
    std::swap(pieces, other.pieces);
    return *this;
}

}  // namespace mpsplit
