// A file as memory. Ranks of one host that map the same file share its pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mpsplit {

class Mapped {
  public:
    Mapped() = default;
    explicit Mapped(const std::string& path);  // throws a Failure that names the path
    ~Mapped();
    Mapped(Mapped&& other) noexcept;
    Mapped& operator=(Mapped&& other) noexcept;

    const uint8_t* data = nullptr;
    size_t bytes = 0;
};

}  // namespace mpsplit
