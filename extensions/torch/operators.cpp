// torch.ops.mpi_extensions: every schema, and what stands behind it.
//
// The five collectives are those of mpsplit/package/collectives.py, arguments in the same order.
// They act on the last axis, take one tensor and return one. Load the library with
// torch.ops.load_library, or give it to a pnnx with customop=.
#include <torch/library.h>

#include "cpu_operators.h"
#include "gradients.h"
#include "groups.h"

using namespace mpsplit::torch_operators;

TORCH_LIBRARY(mpi_extensions, m) {
    // the sum over the ranks of the group
    m.def("all_reduce(Tensor x, int group) -> Tensor");
    // their tensors side by side: [..., n] -> [..., size * n]
    m.def("all_gather(Tensor x, int group, int size) -> Tensor");
    // the root's tensor; roots and peers are places in the group
    m.def("broadcast(Tensor x, int group, int root) -> Tensor");
    // gives x to the peer; returns x, which must be used
    m.def("send(Tensor x, int group, int peer) -> Tensor");
    // what the peer sent, of the shape and type of `like`
    m.def("recv(Tensor like, int group, int peer) -> Tensor");
    // names the ranks of a group, which is null until then
    m.def("set_group(int group, int[] ranks) -> ()", set_group);
    // what this rank has handed over, in all its groups
    m.def("bytes_sent() -> int", bytes_sent);
}

TORCH_LIBRARY_IMPL(mpi_extensions, CPU, m) {
    m.impl("all_reduce", all_reduce);
    m.impl("all_gather", all_gather);
    m.impl("broadcast", broadcast);
    m.impl("send", send);
    m.impl("recv", recv);
}

TORCH_LIBRARY_IMPL(mpi_extensions, Meta, m) {
    m.impl("all_reduce", same_shape);
    m.impl("all_gather", widened);
    m.impl("broadcast", same_shape_from);
    m.impl("send", same_shape_from);
    m.impl("recv", same_shape_from);
}

TORCH_LIBRARY_IMPL(mpi_extensions, Autograd, m) {
    m.impl("all_reduce", recorded::all_reduce);
    m.impl("all_gather", recorded::all_gather);
    m.impl("broadcast", recorded::broadcast);
    m.impl("send", recorded::send);
    m.impl("recv", recorded::recv);
}
