// What the operators do to tensors of the CPU: each returns a new tensor, in one piece, and leaves
// its input as it is.
#pragma once

#include <ATen/core/Tensor.h>

namespace mpsplit::torch_operators {

at::Tensor all_reduce(const at::Tensor& x, int64_t group);
at::Tensor all_gather(const at::Tensor& x, int64_t group, int64_t size);
at::Tensor broadcast(const at::Tensor& x, int64_t group, int64_t root);
at::Tensor send(const at::Tensor& x, int64_t group, int64_t peer);
at::Tensor recv(const at::Tensor& like, int64_t group, int64_t peer);

// Their output without the work: shapes follow from the arguments alone, on every rank alike.
at::Tensor same_shape(const at::Tensor& x, int64_t group);
at::Tensor same_shape_from(const at::Tensor& x, int64_t group, int64_t peer);
at::Tensor widened(const at::Tensor& x, int64_t group, int64_t size);

}  // namespace mpsplit::torch_operators
