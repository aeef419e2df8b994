// Ranks of one host find each other, and talk through shared memory from then on; the other pairs
// keep their link.
#pragma once

#include "comm.h"

namespace mpsplit {

std::string this_host();  // name and boot id: two machines may share a name, two containers a boot

// All ranks of `far` together, with messages over it. Gives `far` back when no host has two ranks
// that can share memory.
std::shared_ptr<Link> meet(std::shared_ptr<Link> far);

// The communicator of all ranks of a link; shared: through memory between ranks of one host.
std::shared_ptr<Comm> world_over(std::shared_ptr<Link> link, bool shared);

}  // namespace mpsplit
