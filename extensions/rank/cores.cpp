#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

namespace mpsplit {
namespace {

std::string text_of(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

// "QUOTA PERIOD", of which the quota may be a word or negative: no limit
int whole_cores(const std::string& limit) {
    long long quota = 0, period = 0;
    std::istringstream words(limit);
    if (!(words >> quota >> period) || quota <= 0 || period <= 0) return 0;
    return int(std::max(1LL, quota / period));
}

int smaller(int cores, int limit) { return limit && (!cores || limit < cores) ? limit : cores; }

bool has_cpu(const std::string& controllers) {
    return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

}  // namespace

int cores_of_groups(const std::string& own, const std::string& root) {
    int found = 0;
    std::istringstream lines(own);
    for (std::string line; std::getline(lines, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool second_version = controllers.empty();
        if (!second_version && !has_cpu(controllers)) continue;
        const std::string top = second_version ? root : root + "/cpu";
        // our group, and each one above it
        for (std::string group = line.substr(second + 1);; group.erase(group.rfind('/'))) {
            if (group == "/") group.clear();
            const std::string at = top + group;
            found = smaller(found,
                            whole_cores(second_version ? text_of(at + "/cpu.max")
                                                       : text_of(at + "/cpu.cfs_quota_us") + " " +
                                                             text_of(at + "/cpu.cfs_period_us")));
            if (group.rfind('/') == std::string::npos) break;
        }
    }
    return found;
}

int cores() {
    cpu_set_t set;
    const int ours = sched_getaffinity(0, sizeof set, &set) == 0
                         ? CPU_COUNT(&set)
                         : int(std::thread::hardware_concurrency());
    return smaller(std::max(1, ours),
                   cores_of_groups(text_of("/proc/self/cgroup"), "/sys/fs/cgroup"));
}

int share_of_cores(int local_ranks) {
    const int share = std::max(1, cores() / local_ranks);
    const char* asked = std::getenv("OMP_NUM_THREADS");
    const long threads = asked ? std::strtol(asked, nullptr, 10) : 0;
    return threads > 0 ? int(std::min<long>(threads, share)) : share;
}

}  // namespace mpsplit
