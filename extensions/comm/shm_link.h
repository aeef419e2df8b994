// Messages through memory that the ranks of one host share: for each ordered pair a ring of bytes
// that one rank writes and one reads, without locks. Waits spin, then sleep on a futex, and look
// ten times a second whether the peer still lives.
//
// The memory is a memfd, which the others open through /proc. It has no name, so nothing can be
// left in /dev/shm.
#pragma once

#include <span>

#include "comm.h"

namespace mpsplit {

class Memory;  // the shared mapping

struct Neighbour {
    int rank;  // in the world
    int pid;
};

// The first of a host's ranks makes the memory; the others open it. nullptr when it cannot be
// opened, or is another's.
std::shared_ptr<Memory> make_memory(int ranks, uint64_t cookie, int& descriptor);
std::shared_ptr<Memory> open_memory(int ranks, uint64_t cookie, int pid, int descriptor);

// `neighbours` are the ranks of this host, in order, this one among them.
std::shared_ptr<Link> shm_link(int rank, int size, std::vector<Neighbour> neighbours,
                               std::shared_ptr<Memory> memory);

}  // namespace mpsplit
