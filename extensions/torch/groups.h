// Which ranks a group id stands for, and the communicator between them.
//
// A group whose ranks nobody has named is null: no peers, right shapes. That is what tracing and
// pnnx need, also under mpirun, where they must not wait for each other. MPI starts at the first
// collective of a named group of several ranks, on all ranks of mpirun at once, and ends with the
// process.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm.h"

namespace mpsplit::torch_operators {

// in the order of their blocks; no ranks: null again. Talks to nobody.
void set_group(int64_t group, at::IntArrayRef ranks);
std::shared_ptr<Comm> named(int64_t group);  // nullptr: null
int64_t place(int64_t group);  // of this rank in the group, known without MPI; 0 where it is null
int64_t bytes_sent();          // over all groups

}  // namespace mpsplit::torch_operators
