// The operators as autograd records them. The loss is the sum of the losses of all ranks; backward
// runs the same collectives on all of them, in the opposite order.
#pragma once

#include <ATen/core/Tensor.h>

namespace mpsplit::torch_operators::recorded {

at::Tensor all_reduce(const at::Tensor& x, int64_t group);
at::Tensor all_gather(const at::Tensor& x, int64_t group, int64_t size);
at::Tensor broadcast(const at::Tensor& x, int64_t group, int64_t root);
at::Tensor send(const at::Tensor& x, int64_t group, int64_t peer);
at::Tensor recv(const at::Tensor& like, int64_t group, int64_t peer);

}  // namespace mpsplit::torch_operators::recorded
