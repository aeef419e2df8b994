// Memory for what has no place in the arena: what layers need for themselves, and constants. What
// was freed is kept by size and handed out again.
#pragma once

#include <ncnn/allocator.h>

#include <cstdint>
#include <mutex>

namespace mpsplit {

class Pool : public ncnn::Allocator {
  public:
    ~Pool() override;
    void* fastMalloc(size_t size) override;
    void fastFree(void* memory) override;
    int64_t bytes() const { return bytes_; }  // of the system, so far

  private:
    struct Piece;                     // stands before the memory that it describes
    static constexpr int sizes = 48;  // powers of two
    Piece* free_[sizes] = {};
    int64_t bytes_ = 0;
    std::mutex busy_;
};

}  // namespace mpsplit
