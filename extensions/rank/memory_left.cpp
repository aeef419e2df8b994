#include "memory_left.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <optional>
#include <sstream>

#include "control_groups.h"

namespace mpsplit {
namespace {

// by version: the limit, the use, and the line of memory.stat with what can be dropped of that use
struct Names {
    const char *limit, *use, *droppable;
};
constexpr Names names[] = {
    {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
    {"memory.max", "memory.current", "inactive_file"},
};

// The number after a word at the begin of a line.
int64_t number_after(const std::string& text, const std::string& word) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(word)) return std::strtoll(line.c_str() + word.size(), nullptr, 10);
    return 0;
}

std::optional<int64_t> left_in(const ControlGroup& group) {
    const Names& of = names[group.version - 1];
    const std::string most = text_of(group.folder / of.limit),
                      used = text_of(group.folder / of.use);
    if (most.empty() || used.empty() || most.starts_with("max")) return std::nullopt;
    const int64_t dropped =
        number_after(text_of(group.folder / "memory.stat"), std::string(of.droppable) + " ");
    const int64_t limit = std::strtoll(most.c_str(), nullptr, 10);
    return std::max<int64_t>(0, limit - std::strtoll(used.c_str(), nullptr, 10) + dropped);
}

}  // namespace

int64_t left_in_groups(const std::string& own, const std::string& root) {
    int64_t least = -1;
    for (const ControlGroup& group : groups_of("memory", own, root))
        if (const auto left = left_in(group); left && (least < 0 || *left < least)) least = *left;
    return least;
}

int64_t available_bytes() {
    const int64_t system = number_after(text_of("/proc/meminfo"), "MemAvailable:") << 10;
    const int64_t groups = left_in_groups(own_groups(), group_root);
    return groups < 0 ? system : std::min(system, groups);
}

}  // namespace mpsplit
