// Messages over MPI, on a communicator of our own, so that they never meet mpi4py's.
#pragma once

#include "comm.h"

namespace mpsplit {

// All ranks of MPI_COMM_WORLD together. Starts MPI when nobody has, and then ends it when the
// process ends.
// `timeout` as Link has it.
std::shared_ptr<Link> mpi_link(double timeout);

// Whether all ranks of MPI_COMM_WORLD have this C++: Python asks them the same before it uses it.
// Starts MPI, too.
bool all_built();

}  // namespace mpsplit
