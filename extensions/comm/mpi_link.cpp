#include "mpi_link.h"

#include <mpi.h>
#include <sched.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>

#include "wait.h"

namespace mpsplit {

namespace {

constexpr size_t piece = size_t(1) << 30;   // MPI counts in int
constexpr size_t short_message = 64 << 10;  // bytes
enum Tag { whole = 1, announced, part };    // of a short message, and of a long one
// looks before a wait gives the core away, and before it sleeps between looks
constexpr int spins = 2000, yields = 20000;
constexpr unsigned sleeps_a_look = 500;  // a tenth of a second, or less

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

// What a rank tells the others besides messages, as one int.
constexpr int a_word = 0, ended_word = 1;      // tags; with the second comes a text
constexpr int waits_no_longer = -1;            // else, from 0 on: for whom it waits
int is_silent(int rank) { return -2 - rank; }  // its own inverse

using Requests = std::vector<MPI_Request>;

// A short message comes into a place that has room for each of them, so that none is cut. A long
// one is announced by a short one that is nothing but its length: what is too long for the buffer
// that awaits it, Open MPI may write behind the buffer.
class Mpi final : public Link {
  public:
    Mpi(MPI_Comm comm, MPI_Comm words, int rank, int size, double seconds)
        : Link(rank, size),
          comm_(comm),
          words_(words),
          place_(short_message),
          waits_for_(size_t(size)) {
        timeout = seconds;
        for (auto& nobody : waits_for_) nobody = waits_no_longer;
    }

    ~Mpi() override {
        if (ended()) return;
        MPI_Comm_free(&comm_);
        MPI_Comm_free(&words_);
    }

    std::string name() const override { return "mpi"; }

    void start(Out out, In in) override {
        out_ = out, in_ = in;
        receiving_.clear(), sending_.clear();
        if (in.peer >= 0)
            check(MPI_Irecv(place_.data(), int(place_.size()), MPI_BYTE, in.peer, MPI_ANY_TAG,
                            comm_, &receiving_.emplace_back()),
                  "receive");
        if (out.peer < 0) return;
        if (out.bytes <= short_message) return send(out.data, int(out.bytes), whole);
        send(&out_.bytes, sizeof out_.bytes, announced);
        for (size_t at = 0; at < out.bytes; at += piece)
            send(static_cast<const char*>(out.data) + at, int(std::min(piece, out.bytes - at)),
                 part);
    }

    void finish() override {
        if (in_.peer >= 0) take();
        wait(sending_, out_.peer);
    }

    // Words that have come. Who is silent ends everybody.
    void look_around() override {
        for (int there = 0;;) {
            MPI_Status status;
            check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, words_, &there, &status), "look around");
            if (!there) return;
            if (status.MPI_TAG == ended_word) hear_why(status);
            int told = 0;
            check(MPI_Recv(&told, 1, MPI_INT, status.MPI_SOURCE, status.MPI_TAG, words_,
                           MPI_STATUS_IGNORE),
                  "receive a word");
            if (told < waits_no_longer) throw did_not_answer(*outer, is_silent(told));
            waits_for_[size_t(status.MPI_SOURCE)] = told;
        }
    }

    void tell_waits_for(int peer) override { tell(peer); }
    int waits_for(int other) override { return waits_for_[size_t(other)]; }
    void tell_silent(int other) override { tell(is_silent(other)); }
    void hear_last_words() override { look_around(); }
    void tell_last_words(const std::string& why) override {
        why_ = last_words_of(why);
        MPI_Request request;
        for (int other = 0; other < size; ++other)
            if (other != rank && MPI_Isend(why_.data(), int(why_.size()), MPI_CHAR, other,
                                           ended_word, words_, &request) == 0)
                MPI_Request_free(&request);
    }

  private:
    [[noreturn]] void hear_why(MPI_Status& status) {
        int length = 0;
        MPI_Get_count(&status, MPI_CHAR, &length);
        std::string why(size_t(std::max(length, 0)), ' ');
        check(MPI_Recv(why.data(), length, MPI_CHAR, status.MPI_SOURCE, ended_word, words_,
                       MPI_STATUS_IGNORE),
              "receive last words");
        throw has_ended(*outer, status.MPI_SOURCE, last_words_of(why));
    }

    void send(const void* data, int bytes, int tag) {
        check(MPI_Isend(data, bytes, MPI_BYTE, out_.peer, tag, comm_, &sending_.emplace_back()),
              "send");
    }

    // What came, once it is as long as it has to be.
    void take() {
        MPI_Status status;
        wait(receiving_, in_.peer, &status);
        int came = 0;
        MPI_Get_count(&status, MPI_BYTE, &came);
        size_t length = size_t(came);
        if (status.MPI_TAG == announced) std::memcpy(&length, place_.data(), sizeof length);
        if (length != in_.bytes) throw other_length(in_.peer, length, rank, in_.bytes);
        if (status.MPI_TAG == whole) {
            std::memcpy(in_.data, place_.data(), length);
            return;
        }
        receiving_.clear();
        for (size_t at = 0; at < length; at += piece)
            check(MPI_Irecv(static_cast<char*>(in_.data) + at, int(std::min(piece, length - at)),
                            MPI_BYTE, in_.peer, part, comm_, &receiving_.emplace_back()),
                  "receive");
        wait(receiving_, in_.peer);
    }

    void wait(Requests& requests, int peer, MPI_Status* statuses = MPI_STATUSES_IGNORE) {
        std::optional<Wait> waiting;
        int done = requests.empty();
        for (unsigned looks = 0; !done; ++looks) {
            check(MPI_Testall(int(requests.size()), requests.data(), &done, statuses), "wait");
            if (done || looks < spins) continue;
            sched_yield();
            if (looks < spins + yields) continue;
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            if (looks % sleeps_a_look) continue;
            if (!waiting) waiting.emplace(*this, peer);
            waiting->look();
        }
    }

    // To all others; nobody waits for it to arrive.
    void tell(int word) {
        const int& kept = told_.emplace_back(word);
        MPI_Request request;
        for (int other = 0; other < size; ++other)
            if (other != rank && MPI_Isend(&kept, 1, MPI_INT, other, a_word, words_, &request) == 0)
                MPI_Request_free(&request);
    }

    MPI_Comm comm_, words_;
    Out out_;
    In in_;
    std::vector<std::byte> place_;
    Requests receiving_, sending_;
    std::vector<std::atomic<int>> waits_for_;  // by rank, as it told
    std::deque<int> told_;                     // by this rank: MPI may read them later
    std::string why_;                          // the same
};

}  // namespace

std::shared_ptr<Link> mpi_link(double timeout) {
    begin_mpi();
    MPI_Comm comm, words;
    int rank = 0, size = 0;
    for (MPI_Comm* made : {&comm, &words}) {
        check(MPI_Comm_dup(MPI_COMM_WORLD, made), "make a communicator");
        MPI_Comm_set_errhandler(*made, MPI_ERRORS_RETURN);
    }
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    return std::make_shared<Mpi>(comm, words, rank, size, timeout);
}

bool all_built() {
    begin_mpi();
    int32_t built = 1;
    check(MPI_Allreduce(MPI_IN_PLACE, &built, 1, MPI_INT32_T, MPI_MIN, MPI_COMM_WORLD),
          "ask whether all ranks have the C++");
    return built;
}

}  // namespace mpsplit
