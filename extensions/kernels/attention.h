// Attention over what was said so far: a cache of keys and values in memory, and the products that read it.
//
//   keys    [head][panel of 16 positions][dim][16]   a dot product with 16 keys reads straight on, without sums across lanes
//   values  [head][position][width]                  width is dim, rounded up to 16
//
// A cache reserves its whole context of addresses; memory is taken page by page as positions are written, and never moves.
#pragma once

#include <cstddef>

namespace mpsplit {

class KeyValueCache {
  public:
    KeyValueCache(int heads, int dim, int context);
    ~KeyValueCache();
    KeyValueCache(const KeyValueCache&) = delete;

    const int heads, dim, context;  // context: rounded up to 32
    const int width;
    float* keys(int head) const { return keys_ + size_t(head) * context * dim; }
    float* values(int head) const { return values_ + size_t(head) * context * width; }

    // What a head remembers of the first positions, [positions][dim]: keys are turned.
    void read_keys(int head, int positions, float* to) const;
    void read_values(int head, int positions, float* to) const;

  private:
    size_t bytes_;
    float *keys_, *values_;
};

// Angles by position: cos and sin are [position][dim / 2], both halves of a head turn by the same.
struct Rotation {
    const float *cos, *sin;
};

// `rows` tokens that follow the `position` tokens of the cache. Row t of q is at q + t * q_stride, [heads][dim]; so are k and v
// with the cache's heads, which each serve heads / cache.heads neighbouring heads of q.
struct Attention {
    KeyValueCache& cache;
    int heads;
    float scale;
    int window;  // positions that a token sees, itself included; 0 for all
    Rotation rotation;
};

struct Strided {
    const float* data;
    size_t stride;
    const float* operator[](int row) const { return data + row * stride; }
};

size_t attention_scratch_floats(const Attention& attention, int threads);

// Turns and stores k, stores v, then y [rows][heads * dim] = softmax(scale * q k^T) v.
void attend(const Attention& attention, Strided q, Strided k, Strided v, int rows, int position, float* y, float* scratch, int threads);

}  // namespace mpsplit
