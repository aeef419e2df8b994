#include "control_groups.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace mpsplit {

std::string text_of(const std::filesystem::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

std::string own_groups() { return text_of("/proc/self/cgroup"); }

std::vector<ControlGroup> groups_of(const std::string& controller, const std::string& own,
                                    const std::filesystem::path& root) {
    std::vector<ControlGroup> found;
    std::istringstream lines(own);
    for (std::string line; std::getline(lines, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const int version = controllers.empty() ? 2 : 1;
        if (version == 1 &&
            ("," + controllers + ",").find("," + controller + ",") == std::string::npos)
            continue;
        auto top = root;
        if (version == 1)  // `cpu` may be a link to `cpu,cpuacct`, or the root itself
            for (const std::string& name : {controllers, controller})
                if (std::filesystem::is_directory(root / name)) top = root / name;
        std::string group = line.substr(second + 1);
        for (; group.size() > 1; group.erase(std::max<size_t>(1, group.rfind('/'))))
            found.push_back({top / group.substr(1), version});
        found.push_back({top, version});
    }
    return found;
}

}  // namespace mpsplit
