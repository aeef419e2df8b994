// mpsplit-rank PACKAGE [--threads N]: one rank that follows, without Python. Rank 0 is Python's:
//   mpirun -np 1 mpsplit run PACKAGE --prompt Hello : -np 1 mpsplit-rank PACKAGE
#include <sys/prctl.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cores.h"
#include "engine_slice.h"
#include "join.h"
#include "package_here.h"
#include "package_lock.h"

using namespace mpsplit;

namespace {

struct Arguments {
    std::string package;
    int threads = 0;  // 0: OMP_NUM_THREADS, or a share of the cores
};

int whole_number(const char* option, const char* text) {
    char* stop = nullptr;
    const long value = text ? std::strtol(text, &stop, 10) : 0;
    if (!text || *stop || value < 1 || value > 4096)
        throw Error(std::string(option) + " must be a number from 1 to 4096");
    return int(value);
}

Arguments parse(int count, char** words) {
    Arguments found;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--threads")
            found.threads = whole_number("--threads", words[++i]);
        else if (word == "--chunk")
            whole_number("--chunk", words[++i]);  // rank 0's affair
        else if (word.starts_with('-') || !found.package.empty())
            throw Error("usage: mpsplit-rank PACKAGE [--threads N]; " + word + " is neither");
        else
            found.package = word;
    }
    if (found.package.empty()) throw Error("usage: mpsplit-rank PACKAGE [--threads N]");
    return found;
}

// Who has a key trusts what it protects. mpsplit/package/sealed/keys.py has the same names.
void demand_sealed(const std::string& folder) {
    for (const char* name : {"MPSPLIT_KEY", "MPSPLIT_KEY_COMMAND"})
        if (const char* key = std::getenv(name); key && *key && !is_sealed(folder + "/rank.txt"))
            throw Error("a key is configured, and this package is not sealed; " + folder +
                        " is plain, " + name + " names a key: take " + name +
                        " away if it may be plain");
}

void work(const Arguments& arguments, const Place& place) {
    const PackageLock lock(arguments.package, "mpsplit-rank " + arguments.package);
    demand_sealed(arguments.package + "/rank-" + std::to_string(place.rank));
    const Joined joined = join(place);
    refuse_unfinished(arguments.package);  // a rank 0 of this host has finished it by now
    EngineSlice slice(arguments.package, joined.world,
                      arguments.threads ? arguments.threads : share_of_cores(joined.local_size),
                      joined.local_size);
    greet(slice, *joined.world);
    try {
        follow(slice, *joined.world);
    } catch (const std::exception& wrong) {
        joined.world->link()->tell_last_words(wrong.what());
        throw;
    }
}

}  // namespace

int main(int count, char** words) {
    std::string who;
    if (std::getenv("OMPI_COMM_WORLD_RANK"))
        prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun's end is ours; mpsplit/leash.py
    try {
        const Arguments arguments = parse(count, words);
        const Place here = place();
        for (const int number : {SIGINT, SIGTERM})
            std::signal(number, SIG_IGN);  // rank 0 hears them too, and says when it is time to go
        who = "rank " + std::to_string(here.rank) + ": ";
        work(arguments, here);
    } catch (const std::exception& wrong) {
        // when all ranks fail alike, rank 0 speaks; and mpirun may hang over a rank that leaves
        // while the others start
        if (std::getenv("OMPI_COMM_WORLD_RANK"))
            std::this_thread::sleep_for(std::chrono::seconds(2));
        std::fprintf(stderr, "mpsplit: %s%s\n", who.c_str(), wrong.what());
        _exit(2);  // without MPI_Finalize: mpirun ends the others
    }
}
