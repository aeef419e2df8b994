// A file as memory. Processes that map the same file share its pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mpsplit {

// How a file is read: a few rows of it now and then, or all of it for every token. What is read whole wants pages of 2 MB: with 4 KB
// pages a core spends a quarter of its time looking up addresses. A row wants small ones: a large page around each takes as much memory
// as all of the file.
enum class Reading { here_and_there, whole };

class Mapped {
  public:
    Mapped() = default;
    Mapped(const std::string& path, Reading reading);  // throws a Failure that names the path
    ~Mapped();
    Mapped(Mapped&& other) noexcept;
    Mapped& operator=(Mapped&& other) noexcept;

    const uint8_t* data = nullptr;
    size_t bytes = 0;
    bool copied = false;  // the page cache has the file in small pages, so this is a copy in large ones
};

}  // namespace mpsplit
