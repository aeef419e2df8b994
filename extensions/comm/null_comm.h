// No peers: what pnnx and single runs see. Shapes are true for `size` ranks; sums and broadcasts
// leave the array as it is, all_gather repeats it, send drops it.
#pragma once

#include "comm.h"

namespace mpsplit {

std::shared_ptr<Comm> null_comm(int rank, int size);

}  // namespace mpsplit
