#include "wait.h"

#include <algorithm>
#include <sstream>

namespace mpsplit {

namespace {

using Seconds = std::chrono::duration<double>;

// Shares of the limit: after how much of it the others are told, and how much counts between two
// looks at most. A process that was stopped itself blames nobody for it.
constexpr double told_after = 0.25, longest_look = 0.25;

Seconds share_of(double limit, double share) { return Seconds(limit * share); }

// The rank at the end of the chain of those that wait for each other. In a circle nobody is to
// blame more than another, and it is `peer`.
int who_holds_up(Link& link, int peer) {
    int found = peer;
    for (int step = 0; step < link.size; ++step) {
        const int next = link.waits_for(found);
        if (next < 0) return found;
        if (next == peer || next == link.rank) break;
        found = next;
    }
    return peer;
}

}  // namespace

Wait::Wait(Link& link, int peer) : link_(*link.outer), peer_(peer) {}

Wait::~Wait() {
    if (told_) link_.tell_waits_for(-1);
}

void Wait::goes_on() {
    waited_ = {};
    looked_ = Clock::now();
}

void Wait::look() {
    link_.look_around();
    while_waiting();
    const auto now = Clock::now();
    const double limit = link_.limit();
    if (limit <= 0) return;
    waited_ += std::min<Seconds>(now - looked_, share_of(limit, longest_look));
    looked_ = now;
    if (!told_ && waited_ > share_of(limit, told_after)) {
        told_ = true;
        link_.tell_waits_for(peer_);
    }
    if (waited_ <= share_of(limit, 1)) return;
    told_ = false;  // its word stands: others at their limit follow it to who holds up all
    const int silent = who_holds_up(link_, peer_);
    link_.tell_silent(silent);
    throw did_not_answer(link_, silent);
}

Error did_not_answer(const Link& link, int rank) {
    if (rank == link.rank)
        return Error("the other ranks waited for this one for " + seconds_text(link.timeout) +
                     " and gave it up; was it stopped? Start all ranks again");
    return Error(link.described(rank) + " did not answer for " + seconds_text(link.timeout) +
                 " (seen by rank " + std::to_string(link.rank) + " over " + link.name() +
                 "); look for its own message, and start all ranks again; MPSPLIT_TIMEOUT is how "
                 "many seconds a rank may take");
}

Error has_ended(const Link& link, int rank, const std::string& why) {
    return Error(link.described(rank) + " ended: " + why);
}

std::string last_words_of(std::string why) {
    if (why.size() > most_last_words) why.resize(most_last_words);
    for (char& c : why) {
        const bool printed = c >= ' ' && c <= '~';
        if (!printed) c = c == '\n' ? ' ' : '?';
    }
    return why;
}

Error other_length(int peer, size_t sent, int rank, size_t expected) {
    return Error("rank " + std::to_string(peer) + " sent " + std::to_string(sent) +
                 " bytes where rank " + std::to_string(rank) + " expected " +
                 std::to_string(expected) + "; they are not in the same collective");
}

std::string seconds_text(double seconds) {
    std::ostringstream text;
    text << seconds << " s";
    return text.str();
}

}  // namespace mpsplit
