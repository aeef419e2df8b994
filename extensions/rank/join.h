// How a rank without Python joins the others: the environment and the calls of
// mpsplit/comm/__init__.py and cpp.py.
#pragma once

#include "comm.h"

namespace mpsplit {

struct Place {
    int rank, size;
    std::string store;  // the folder to meet in; empty under mpirun
};

Place place();  // what mpirun, or RANK, WORLD_SIZE and MPSPLIT_STORE say; throws an Error when this
                // rank has nobody to follow

struct Joined {
    std::shared_ptr<Comm> world;
    int local_size;  // ranks on this host
};

Joined join(const Place& place);  // all ranks together

}  // namespace mpsplit
