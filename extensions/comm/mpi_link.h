// Messages over MPI, on a communicator of our own, so that they never meet mpi4py's.
#pragma once

#include "comm.h"

namespace mpsplit {

// All ranks of MPI_COMM_WORLD together. Starts MPI when nobody has, and then ends it when the process ends.
std::shared_ptr<Link> mpi_link();

} // namespace mpsplit
