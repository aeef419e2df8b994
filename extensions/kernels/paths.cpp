// Which paths there are, and which of them this CPU runs.
#include "path.h"

namespace mpsplit {

extern const Path plain_path, avx2_path, vnni_path, bf16_path, neon_path;

namespace {

// from the slowest to the fastest
const Path* const all[] = {
    &plain_path,
#if defined(__x86_64__)
    &avx2_path,
    &vnni_path,
    &bf16_path,
#elif defined(__aarch64__)
    &neon_path,
#endif
};

const Path* find_best() {
    const Path* best = nullptr;
    for (const Path* path : all)
        if (path->runs_here()) best = path;
    return best;
}

}  // namespace

const Path* path_named(const std::string& name) {
    for (const Path* path : all)
        if (path->name == name && path->runs_here()) return path;
    return nullptr;
}

const Path* best_path() {
    static const Path* const best = find_best();
    return best;
}

std::vector<std::string> path_names() {
    std::vector<std::string> names;
    for (const Path* path : all)
        if (path->runs_here()) names.push_back(path->name);
    return names;
}

}  // namespace mpsplit
