// Messages over gloo's TCP transport, which needs no mpirun. Compiled when gloo's headers are
// there.
#pragma once

#include "comm.h"

namespace mpsplit {

// The ranks find each other through files in `folder`, which all of them see; they are removed once
// all have met. `interface` is a network interface such as eth0; empty: the first one that is up
// and not the loopback.
std::shared_ptr<Link> gloo_link(int rank, int size, const std::string& folder,
                                const std::string& interface, double timeout);

// The ranks find each other through messages over `meeting`.
std::shared_ptr<Link> gloo_link_over(Comm& meeting, const std::string& interface, double timeout);

}  // namespace mpsplit
