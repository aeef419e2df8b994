// Every collective over every transport that needs no mpirun, without Python: forked processes as
// ranks. What the sanitizers watch (launch/test-sanitizers).
#include <sys/wait.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <numeric>
#include <string>
#include <thread>

#include "comm.h"
#include "meet_on_host.h"
#include "null_comm.h"
#ifdef MPSPLIT_GLOO
#include "gloo_link.h"
#endif

using namespace mpsplit;

namespace {

void expect(bool good, const char* what) {
    if (good) return;
    std::printf("WRONG: %s\n", what);
    std::exit(1);
}

float value(int rank, size_t i) {
    return float(rank + 1) * float(i % 7);
}  // sums of few such are exact

void sums(Comm& comm, size_t count) {
    std::vector<float> x(count);
    for (size_t i = 0; i < count; ++i) x[i] = value(comm.rank(), i);
    comm.all_reduce(x.data(), count, Type::f32);
    const float ranks = float(comm.size()) * float(comm.size() + 1) / 2;
    for (size_t i = 0; i < count; ++i) expect(x[i] == ranks * float(i % 7), "a sum");
}

void moves(Comm& comm, size_t bytes) {
    const int rank = comm.rank(), size = comm.size(), right = (rank + 1) % size,
              left = (rank + size - 1) % size;
    std::vector<char> mine(bytes, char(rank)), all(bytes * size), got(bytes);
    comm.all_gather(mine.data(), bytes, all.data());
    for (size_t i = 0; i < all.size(); ++i) expect(all[i] == char(i / bytes), "a gathered block");
    comm.exchange(mine.data(), bytes, right, got.data(), bytes, left);
    expect(got == std::vector<char>(bytes, char(left)), "an exchange");
    comm.broadcast(mine.data(), bytes, size - 1);
    expect(mine == std::vector<char>(bytes, char(size - 1)), "a broadcast");
    comm.barrier();
}

void everything(Comm& comm) {
    for (const size_t count : {0, 1, 1000, 70'000}) sums(comm, count);
    for (const size_t bytes : {0, 1, 65, 300'000}) moves(comm, bytes);
    // the others' waits sleep and look around
    std::this_thread::sleep_for(std::chrono::milliseconds(250 * (comm.rank() == 0)));
    comm.barrier();
    const auto even = comm.group({0, comm.size() - 1});
    if (even) sums(*even, 100);
}

void null_alone() {
    const auto comm = null_comm(1, 3);
    float x = 3, all[3];
    comm->all_reduce(&x, 1, Type::f32);
    comm->all_gather(&x, sizeof x, all);
    expect(x == 3 && all[2] == 3, "null");
}

// Each rank is a process of its own; none may fail.
void on_ranks(int size, const std::function<void(int)>& rank) {
    for (int r = 0; r < size; ++r)
        if (fork() == 0) {
            try {
                rank(r);
            } catch (const std::exception& wrong) {
                expect(false, wrong.what());
            }
            std::exit(0);
        }
    for (int r = 0, status = 0; r < size; ++r) {
        wait(&status);
        expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a rank failed");
    }
}

#ifdef MPSPLIT_GLOO
std::shared_ptr<Comm> over_gloo(int rank, int size, const std::string& folder, bool shared) {
    auto link = gloo_link(rank, size, folder, "lo", 60);
    if (shared) link = meet(link);
    std::vector<int> all(size);
    std::iota(all.begin(), all.end(), 0);
    return std::make_shared<Comm>(link, all);
}

// The last rank vanishes; all others learn that it was this one.
void one_dies(int rank, int size, const std::string& folder, bool shared) {
    const auto comm = over_gloo(rank, size, folder, shared);
    try {
        comm->barrier();  // all have met
        if (rank == size - 1) _exit(0);
        for (;;) sums(*comm, 1000);
    } catch (const Error& wrong) {
        expect(std::string(wrong.what()).starts_with("rank " + std::to_string(size - 1)),
               wrong.what());
    }
}
#endif

}  // namespace

int main() {
    null_alone();
#ifdef MPSPLIT_GLOO
    char folder[] = "/tmp/mpsplit-comm-test-XXXXXX";
    expect(mkdtemp(folder), "a temporary folder");
    for (const bool shared : {false, true})
        for (const int size : {2, 3, 4}) {
            on_ranks(size, [&](int rank) { everything(*over_gloo(rank, size, folder, shared)); });
            on_ranks(size, [&](int rank) { one_dies(rank, size, folder, shared); });
        }
    std::filesystem::remove_all(folder);
    std::puts("right: null gloo gloo+shm");
#else
    std::puts("right: null");
#endif
}
