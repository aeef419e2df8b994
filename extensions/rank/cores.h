// How many threads this process may have, as mpsplit/runtime/engine/cores.py counts it.
#pragma once

#include <string>

namespace mpsplit {

// Those that we may run on, or as much time as our control groups are given, in whole cores.
int cores();
// The latter alone, 0 for no limit: `own` is the text of /proc/self/cgroup, `root` the folder in
// which the groups lie.
int cores_of_groups(const std::string& own, const std::string& root);
// An equal share of them, or OMP_NUM_THREADS where that is less.
int share_of_cores(int local_ranks);

}  // namespace mpsplit
