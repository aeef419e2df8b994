// How much memory this machine has left for us, as mpsplit/runtime/engine/memory_left.py counts it.
#pragma once

#include <cstdint>
#include <string>

namespace mpsplit {

// What can be had without swapping, or what our control groups leave if less.
int64_t available_bytes();
// What each group with a limit leaves, the least of them, or -1 where none has one; as
// cores_of_groups has its arguments.
int64_t left_in_groups(const std::string& own, const std::string& root);

}  // namespace mpsplit
