// Keys and values of what was said so far, in pages.
//
// A page holds 32 positions of one decoder layer, all heads of this rank; who says in which page a
// position lies is the caller. A head's part of a page, in a type T that is float, bfloat16 or
// int8:
//
//   keys    T [2 panels of 16 positions][dim][16]   a dot product with 16 keys reads straight on,
//                                                   without sums across lanes
//   values  T [32][width]                           width is dim, rounded up to 16
//   and of int8 alone: float [32] scales of the keys, float [32] of the values
//
// A cache reserves the addresses of all its pages; memory is taken as positions are written, never
// moves, and goes back when pages are forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mpsplit {

enum class Stored { f32, bf16, q8 };

class KeyValueCache {
  public:
    static constexpr int page_positions = 32;

    KeyValueCache(int heads, int dim, int pages, Stored stored = Stored::f32);
    ~KeyValueCache();
    KeyValueCache(const KeyValueCache&) = delete;

    void reserve(int pages, Stored stored);  // what was in it is gone
    // What these pages held is gone, and their memory is the system's; in rising order.
    void forget(std::span<const int32_t> pages);

    const int heads, dim, width;
    int pages() const { return pages_; }
    Stored stored() const { return stored_; }
    size_t page_bytes() const { return heads * head_bytes_; }
    size_t page_bytes(Stored stored) const;  // if it stored so
    uint8_t* page(int page, int head = 0) const {
        return memory_ + page * page_bytes() + head * head_bytes_;
    }

    // What a head remembers of the first positions of these pages, [positions][dim]: keys are
    // turned.
    void read_keys(const int32_t* pages, int head, int positions, float* to) const;
    void read_values(const int32_t* pages, int head, int positions, float* to) const;

  private:
    Stored stored_ = Stored::f32;
    int pages_ = 0;
    size_t head_bytes_ = 0;
    uint8_t* memory_ = nullptr;
};

}  // namespace mpsplit
