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
#include "engine.h"
#include "follow.h"
#include "join.h"

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

class EngineSlice final : public Slice {
  public:
    EngineSlice(const std::string& package, std::shared_ptr<Comm> world, int threads)
        : package_(package),
          rank_("rank-" + std::to_string(world->rank())),
          engine_(package + "/" + rank_, std::move(world), threads) {}

    std::span<const float> step(std::span<const int64_t> tokens,
                                std::span<const Question> questions) override {
        of_.clear();
        for (const Question& part : questions)
            of_.push_back({int(part.slot), int(part.position), int(part.length)});
        const auto logits = engine_.step(tokens, of_, false);
        return {logits.data, size_t(logits.rows) * logits.columns};
    }
    void place(int64_t slot, int64_t first, std::span<const int64_t> pages) override {
        engine_.place(int(slot), int(first), pages);
    }
    void reserve(int64_t pages, int64_t stored) override { engine_.reserve(pages, stored); }
    void save(int64_t slot, const KeptSegment& kept, const std::string& folder) override {
        const Segment segment = segment_of(kept);
        engine_.save(int(slot), segment, path(folder, segment));
    }
    std::array<int64_t, 2> saved() override {
        const Saved saved = engine_.saved();
        return {int64_t(saved.outcome), saved.detail};
    }
    int64_t load(int64_t slot, const KeptSegment& kept, const std::string& folder) override {
        const Segment segment = segment_of(kept);
        return int64_t(engine_.load(int(slot), segment, int(kept.until), path(folder, segment)));
    }
    void sweep(const std::string& folder, const std::vector<std::string>& saves) override {
        engine_.sweep(package_ + "/" + folder, saves);
    }
    int64_t first_row() const override { return engine_.facts().head_start; }
    int64_t rows() const override { return engine_.facts().head_rows; }
    uint64_t bytes_sent() const override { return engine_.bytes_sent(); }
    double seconds_between_ranks() const override { return engine_.seconds_between_ranks(); }
    std::array<int64_t, 3> shared_work() const override {
        const ThreadPool::Times& times = engine_.shared_work();
        return {times.shared_ns, times.waited_ns, times.alone_ns};
    }
    std::vector<int64_t> spent() const override {
        const Spent spent = engine_.spent();
        return {std::begin(spent.ns), std::end(spent.ns)};
    }

  private:
    static Segment segment_of(const KeptSegment& kept) {
        return {std::string(kept.identity, sizeof kept.identity), int(kept.first), int(kept.last)};
    }
    // as mpsplit/runtime/engine/native_engine.py
    std::string path(const std::string& folder, const Segment& segment) const {
        const size_t name = segment.identity.size() - save_name_bytes;
        return package_ + "/" + folder + "/" + rank_ + "." + segment.identity.substr(name) + ".kv";
    }

    std::string package_, rank_;
    Engine engine_;
    std::vector<Engine::Part> of_;
};

// Who has a key trusts what it protects. mpsplit/package/sealed/keys.py has the same names.
void demand_sealed(const std::string& folder) {
    for (const char* name : {"MPSPLIT_KEY", "MPSPLIT_KEY_COMMAND"})
        if (const char* key = std::getenv(name); key && *key && !is_sealed(folder + "/rank.txt"))
            throw Error("a key is configured, and this package is not sealed; " + folder +
                        " is plain, " + name + " names a key: take " + name +
                        " away if it may be plain");
}

void work(const Arguments& arguments, const Place& place) {
    demand_sealed(arguments.package + "/rank-" + std::to_string(place.rank));
    const auto [world, local_size] = join(place);
    EngineSlice slice(arguments.package, world,
                      arguments.threads ? arguments.threads : share_of_cores(local_size));
    greet(slice, *world);
    follow(slice, *world);
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
