#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "control_groups.h"

namespace mpsplit {
namespace {

// "QUOTA PERIOD", of which the quota may be a word or negative: no limit
int whole_cores(const std::string& limit) {
    long long quota = 0, period = 0;
    std::istringstream words(limit);
    if (!(words >> quota >> period) || quota <= 0 || period <= 0) return 0;
    return int(std::max(1LL, quota / period));
}

int smaller(int cores, int limit) { return limit && (!cores || limit < cores) ? limit : cores; }

std::string limit_of(const ControlGroup& group) {
    if (group.version == 2) return text_of(group.folder / "cpu.max");
    return text_of(group.folder / "cpu.cfs_quota_us") + " " +
           text_of(group.folder / "cpu.cfs_period_us");
}

}  // namespace

int cores_of_groups(const std::string& own, const std::string& root) {
    int found = 0;
    for (const ControlGroup& group : groups_of("cpu", own, root))
        found = smaller(found, whole_cores(limit_of(group)));
    return found;
}

int cores() {
    cpu_set_t set;
    const int ours = sched_getaffinity(0, sizeof set, &set) == 0
                         ? CPU_COUNT(&set)
                         : int(std::thread::hardware_concurrency());
    return smaller(std::max(1, ours), cores_of_groups(own_groups(), group_root));
}

int share_of_cores(int local_ranks) {
    const int share = std::max(1, cores() / local_ranks);
    const char* asked = std::getenv("OMP_NUM_THREADS");
    const long threads = asked ? std::strtol(asked, nullptr, 10) : 0;
    return threads > 0 ? int(std::min<long>(threads, share)) : share;
}

}  // namespace mpsplit
