#include "mpi_link.h"

#include <mpi.h>
#include <sched.h>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace mpsplit {

namespace {

constexpr size_t piece = size_t(1) << 30;  // MPI counts in int
constexpr int tag = 1;
// looks before a wait gives the core away, and before it sleeps between looks
constexpr int spins = 2000, yields = 20000;

void check(int code, const char* what) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(std::string("MPI could not ") + what + ": " + std::string(text, length));
}

bool ended() {
    int flag = 0;
    MPI_Finalized(&flag);
    return flag;
}

void end_mpi() {
    if (!ended()) MPI_Finalize();
}

void begin_mpi() {
    int running = 0, given = 0;
    if (ended()) throw Error("MPI has ended in this process and cannot be started again");
    MPI_Initialized(&running);
    if (running) return;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &given), "start");
    std::atexit(end_mpi);
}

class Mpi final : public Link {
  public:
    Mpi(MPI_Comm comm, int rank, int size) : Link(rank, size), comm_(comm) {}

    ~Mpi() override {
        if (!ended()) MPI_Comm_free(&comm_);
    }

    std::string name() const override { return "mpi"; }

    void start(Out out, In in) override {
        if (in.peer >= 0)
            for (size_t at = 0; at < in.bytes; at += piece)
                check(
                    MPI_Irecv(static_cast<char*>(in.data) + at, int(std::min(piece, in.bytes - at)),
                              MPI_BYTE, in.peer, tag, comm_, &requests_.emplace_back()),
                    "receive");
        if (out.peer >= 0)
            for (size_t at = 0; at < out.bytes; at += piece)
                check(MPI_Isend(static_cast<const char*>(out.data) + at,
                                int(std::min(piece, out.bytes - at)), MPI_BYTE, out.peer, tag,
                                comm_, &requests_.emplace_back()),
                      "send");
    }

    void finish() override {
        int done = requests_.empty();
        for (unsigned looks = 0; !done; ++looks) {
            check(MPI_Testall(int(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
                  "wait");
            if (done || looks < spins) continue;
            sched_yield();
            if (looks < spins + yields) continue;
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            while_waiting();
        }
        requests_.clear();
    }

  private:
    MPI_Comm comm_;
    std::vector<MPI_Request> requests_;
};

}  // namespace

std::shared_ptr<Link> mpi_link() {
    begin_mpi();
    MPI_Comm comm;
    int rank = 0, size = 0;
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "make a communicator");
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    return std::make_shared<Mpi>(comm, rank, size);
}

bool all_built() {
    begin_mpi();
    int32_t built = 1;
    check(MPI_Allreduce(MPI_IN_PLACE, &built, 1, MPI_INT32_T, MPI_MIN, MPI_COMM_WORLD),
          "ask whether all ranks have the C++");
    return built;
}

}  // namespace mpsplit
