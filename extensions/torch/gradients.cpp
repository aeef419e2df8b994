#include "gradients.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "groups.h"

namespace mpsplit::torch_operators::recorded {

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Through the dispatcher, so that gradients can be traced, and have gradients, themselves.
template <typename... Ints>
Tensor call(const char* name, const Tensor& x, Ints... arguments) {
    const auto found = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
    return found.template typed<Tensor(const Tensor&, Ints...)>().call(x, arguments...);
}

Tensor summed(const Tensor& x, int64_t group) {
    return call("mpi_extensions::all_reduce", x, group);
}
Tensor sent(const Tensor& x, int64_t group, int64_t peer) {
    return call("mpi_extensions::send", x, group, peer);
}
Tensor received(const Tensor& like, int64_t group, int64_t peer) {
    return call("mpi_extensions::recv", like, group, peer);
}

// Each: how the operator is called, and the gradient of x from g, the gradient of what the operator
// returned.

struct AllReduce {  // y = sum of x over the ranks, on all of them: x counts in the y of every rank
    static constexpr auto name = "mpi_extensions::all_reduce";
    static Tensor gradient(const Tensor& g, int64_t group) { return summed(g, group); }
};

struct AllGather {  // y = [x of rank 0 | x of rank 1 | ...], on all of them: one's own block in the
                    // y of every rank
    static constexpr auto name = "mpi_extensions::all_gather";
    static Tensor gradient(const Tensor& g, int64_t group, int64_t size) {
        const auto n = g.sym_size(-1) / size;
        return summed(g, group).narrow_symint(-1, n * place(group), n);
    }
};

struct Broadcast {  // y = x of the root, on all of them: the others' x counts nowhere
    static constexpr auto name = "mpi_extensions::broadcast";
    static Tensor gradient(const Tensor& g, int64_t group, int64_t root) {
        const Tensor sum = summed(g, group);
        return place(group) == root ? sum : at::zeros_like(sum);
    }
};

struct Send {  // y = x, here and at the peer: the peer's gradient comes back
    static constexpr auto name = "mpi_extensions::send";
    static Tensor gradient(const Tensor& g, int64_t group, int64_t peer) {
        return g.add(received(g, group, peer));
    }
};

struct Recv {  // y = x of the peer: its gradient goes back. `like` gives only its shape, but must
               // require a gradient to be recorded
    static constexpr auto name = "mpi_extensions::recv";
    static Tensor gradient(const Tensor& g, int64_t group, int64_t peer) {
        return at::zeros_like(sent(g, group, peer));
    }
};

template <typename Operator, typename... Ints>
struct Recorded : torch::autograd::Function<Recorded<Operator, Ints...>> {
    static Tensor forward(AutogradContext* context, const Tensor& x, Ints... arguments) {
        context->saved_data["arguments"] = std::make_tuple(arguments...);
        const at::AutoDispatchBelowADInplaceOrView below;
        return call(Operator::name, x, arguments...);
    }

    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
        const auto arguments = context->saved_data["arguments"].to<std::tuple<Ints...>>();
        variable_list out(1 + sizeof...(Ints));
        out[0] = std::apply([&](Ints... a) { return Operator::gradient(gradients[0], a...); },
                            arguments);
        return out;
    }
};

}  // namespace

Tensor all_reduce(const Tensor& x, int64_t group) {
    return Recorded<AllReduce, int64_t>::apply(x, group);
}
Tensor all_gather(const Tensor& x, int64_t group, int64_t size) {
    return Recorded<AllGather, int64_t, int64_t>::apply(x, group, size);
}
Tensor broadcast(const Tensor& x, int64_t group, int64_t root) {
    return Recorded<Broadcast, int64_t, int64_t>::apply(x, group, root);
}
Tensor send(const Tensor& x, int64_t group, int64_t peer) {
    return Recorded<Send, int64_t, int64_t>::apply(x, group, peer);
}
Tensor recv(const Tensor& like, int64_t group, int64_t peer) {
    return Recorded<Recv, int64_t, int64_t>::apply(like, group, peer);
}

}  // namespace mpsplit::torch_operators::recorded
