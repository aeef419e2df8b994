#include "mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "failure.h"

namespace mpsplit {

Mapped::Mapped(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat found = {};
    if (file < 0 || fstat(file, &found) != 0) {
        const int why = errno;
        if (file >= 0) close(file);
        throw Failure(path + " cannot be read: " + std::strerror(why));
    }
    bytes = size_t(found.st_size);
    void* memory = bytes ? mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0) : nullptr;
    close(file);
    if (memory == MAP_FAILED) throw Failure(path + " cannot be mapped: " + std::strerror(errno));
    data = static_cast<const uint8_t*>(memory);
    if (data) madvise(memory, bytes, MADV_WILLNEED);
}

Mapped::~Mapped() {
    if (data) munmap(const_cast<uint8_t*>(data), bytes);
}

Mapped::Mapped(Mapped&& other) noexcept { *this = std::move(other); }

Mapped& Mapped::operator=(Mapped&& other) noexcept {
    std::swap(data, other.data);
    std::swap(bytes, other.bytes);
    return *this;
}

}  // namespace mpsplit
