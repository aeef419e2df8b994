// Memory for blobs that come and go with every token: what was freed is kept by size and handed out
// again.
#pragma once

#include <ncnn/allocator.h>

#include <mutex>

namespace mpsplit {

class Pool : public ncnn::Allocator {
  public:
    ~Pool() override;
    void* fastMalloc(size_t size) override;
    void fastFree(void* memory) override;

  private:
    struct Piece;                     // stands before the memory that it describes
    static constexpr int sizes = 48;  // powers of two
    Piece* free_[sizes] = {};
    std::mutex busy_;
};

}  // namespace mpsplit
