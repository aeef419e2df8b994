// ncnn's own layers on our threads.
//
// ncnn's loops are compiled for GCC's OpenMP, which comes down to one function that runs a loop's
// body on several threads, and two that say which of them this is. They are here, in the place of
// libgomp, and a thread of theirs is a part of ours.
#pragma once

#include "thread_pool.h"

namespace mpsplit {

// While it lives, loops of ncnn that this thread comes to run on the pool.
class OmpOnPool {
  public:
    explicit OmpOnPool(ThreadPool& pool);
    ~OmpOnPool();
    OmpOnPool(const OmpOnPool&) = delete;
};

}  // namespace mpsplit
