// One wait for another rank, and what becomes of it when it takes too long. The rule is in comm.h.
//
// Several ranks may come to their limit at once, each waiting for another one. So a rank whose wait
// takes long tells the others whom it waits for. Who gives up follows these words from rank to
// rank, and names the one that waits for nobody.
#pragma once

#include <chrono>

#include "comm.h"

namespace mpsplit {

class Wait {
  public:
    Wait(Link& link, int peer);
    ~Wait();
    Wait(const Wait&) = delete;

    // Once a tick or so, while nothing comes. Throws when a rank has died, or nothing came within
    // the limit.
    void look();
    void goes_on();  // something has come: the limit counts from now on

  private:
    using Clock = std::chrono::steady_clock;

    Link& link_;
    const int peer_;
    Clock::time_point looked_ = Clock::now();
    std::chrono::duration<double> waited_{};
    bool told_ = false;
};

// "rank 1 (process 7 on this host) did not answer for 30 s, ...", as `link`'s rank sees it.
Error did_not_answer(const Link& link, int rank);

// "rank 1 (process 7 on this host) ended: ..."
Error has_ended(const Link& link, int rank, const std::string& why);

// As they travel: in one line, in ASCII, not too long.
constexpr size_t most_last_words = 400;
std::string last_words_of(std::string why);

// "rank 1 sent 128 bytes where rank 0 expected 64; ..."
Error other_length(int peer, size_t sent, int rank, size_t expected);

std::string seconds_text(double seconds);

}  // namespace mpsplit
