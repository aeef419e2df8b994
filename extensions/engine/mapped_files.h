// Files as memory, one or several in one range of addresses. Processes that map the same file share
// its pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mpsplit {

// How a file is read: a few rows of it now and then, all of it for every token, or nobody says.
// What is read whole wants pages of 2 MB: with 4 KB pages a core spends a quarter of its time
// looking up addresses. A row wants small ones: a large page around each takes as much memory as
// all of the file.
enum class Reading { rows, whole, unsaid };

// Whether what is read whole is copied where its file has no large pages, and why: the
// environment's MPSPLIT_WEIGHTS (map or copy) says so, else the kernel, which may give none.
struct Keeping {
    bool copies;
    std::string why;
};
Keeping keeping();  // throws a Failure

class Mapped {
  public:
    static constexpr size_t large_page = size_t(2) << 20;

    struct Placed {
        std::string path;
        size_t begin = 0;  // bytes from the first address, a multiple of large_page
    };
    struct Piece {
        size_t begin, bytes;
    };

    Mapped() = default;
    // in ascending order; throws a Failure that names the path
    Mapped(const std::vector<Placed>& files, Reading reading);
    Mapped(const std::string& path, Reading reading)
        : Mapped(std::vector<Placed>{{path}}, reading) {}
    ~Mapped();
    Mapped(Mapped&& other) noexcept;
    Mapped& operator=(Mapped&& other) noexcept;

    const uint8_t* data = nullptr;
    size_t bytes = 0;           // from the first address to the end of the last file
    std::vector<Piece> pieces;  // where the files lie; there is nothing to read between them
};

}  // namespace mpsplit
