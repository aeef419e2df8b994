// The control groups that this process is in, as mpsplit/runtime/engine/control_groups.py finds
// them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace mpsplit {

struct ControlGroup {
    std::filesystem::path folder;
    int version;  // 1 or 2
};

// Those that may limit what the controller counts, from our own up to the root: `own` is the text
// of /proc/self/cgroup, `root` the folder in which the groups lie.
std::vector<ControlGroup> groups_of(const std::string& controller, const std::string& own,
                                    const std::filesystem::path& root);

std::string own_groups();  // the text of /proc/self/cgroup; nothing where there are none
inline constexpr const char* group_root = "/sys/fs/cgroup";

std::string text_of(const std::filesystem::path& path);  // nothing where there is none

}  // namespace mpsplit
