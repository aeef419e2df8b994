// A plain read of memory, which decoding is measured against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thread_pool.h"

namespace mpsplit {

// the exclusive or of all words
uint64_t read_through(const void* data, size_t bytes, ThreadPool& pool);

}  // namespace mpsplit
