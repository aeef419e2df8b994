// Attention over what was said so far: the products that read a cache of keys and values.
#pragma once

#include <span>

#include "key_value_cache.h"
#include "thread_pool.h"

namespace mpsplit {

// Angles by position: cos and sin are [position][dim / 2], both halves of a head turn by the same.
struct Rotation {
    const float *cos, *sin;
};

struct Attention {
    KeyValueCache& cache;
    int heads;  // of q; the cache's each serve heads / cache.heads neighbouring ones
    float scale;
    int window;  // positions that a token sees, itself included; 0 for all
    Rotation rotation;
};

// `count` neighbouring rows of a step: tokens that follow the `position` tokens in these pages.
// Runs do not see each other.
struct Run {
    int count, position;
    const int32_t* pages;
};

// Row t is at data + t * stride, [heads][dim].
struct Strided {
    const float* data;
    size_t stride;
    const float* operator[](int row) const { return data + row * stride; }
};

// However long the runs are.
size_t attention_scratch_floats(const Attention& attention, int threads);

// Turns and stores k, stores v, then y [rows][heads * dim] = softmax(scale * q k^T) v. The rows are
// those of the runs, one after another. A row's result does not depend on what other rows there
// are, to the last bit.
void attend(const Attention& attention, std::span<const Run> runs, Strided q, Strided k, Strided v,
            float* y, float* scratch, ThreadPool& pool);

}  // namespace mpsplit
