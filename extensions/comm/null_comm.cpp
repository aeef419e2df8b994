#include "null_comm.h"

namespace mpsplit {

std::shared_ptr<Comm> null_comm(int rank, int size) { return std::make_shared<Comm>(rank, size); }

}  // namespace mpsplit
