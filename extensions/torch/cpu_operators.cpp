#include "cpu_operators.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "groups.h"

namespace mpsplit::torch_operators {

namespace {

using at::Tensor;

Type type_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case at::kFloat: return Type::f32;
        case at::kHalf: return Type::f16;
        case at::kBFloat16: return Type::bf16;
        case at::kChar: return Type::i8;
        case at::kInt: return Type::i32;
        case at::kLong: return Type::i64;
        default:
            TORCH_CHECK_TYPE(
                false,
                "mpi_extensions carries float32, float16, bfloat16, int8, int32 and int64, not ",
                x.scalar_type(), "; convert the tensor first");
    }
}

// A copy in one piece, which is the caller's to overwrite.
Tensor copy(const Tensor& x) {
    type_of(x);
    return x.clone(at::MemoryFormat::Contiguous);
}

void check_gather(const Tensor& x, int64_t size) {
    TORCH_CHECK_VALUE(
        x.dim() > 0,
        "all_gather needs a last axis to lay the blocks along; this tensor is a single number");
    TORCH_CHECK_VALUE(size > 0, "all_gather over ", size, " ranks");
}

}  // namespace

Tensor all_reduce(const Tensor& x, int64_t group) {
    Tensor y = copy(x);
    if (const auto comm = named(group))
        comm->all_reduce(y.mutable_data_ptr(), y.numel(), type_of(y));
    return y;
}

// Blocks arrive one after the other, [size, ..., n], and are wanted side by side, [..., size * n].
Tensor all_gather(const Tensor& x, int64_t group, int64_t size) {
    check_gather(x, size);
    type_of(x);
    const Tensor block = x.contiguous();
    const auto comm = named(group);
    if (!comm) return at::cat(std::vector<Tensor>(size, block), -1);
    TORCH_CHECK_VALUE(size == comm->size(), "all_gather over ", size, " ranks in group ", group,
                      ", which has ", comm->size());
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.insert(sizes.begin(), size);
    const Tensor blocks = at::empty(sizes, x.options());
    comm->all_gather(block.const_data_ptr(), block.nbytes(), blocks.mutable_data_ptr());
    return at::cat(blocks.unbind(0), -1);
}

Tensor broadcast(const Tensor& x, int64_t group, int64_t root) {
    Tensor y = copy(x);
    if (const auto comm = named(group))
        comm->broadcast(y.mutable_data_ptr(), y.nbytes(), int(root));
    return y;
}

Tensor send(const Tensor& x, int64_t group, int64_t peer) {
    Tensor y = copy(x);
    if (const auto comm = named(group)) comm->send(y.const_data_ptr(), y.nbytes(), int(peer));
    return y;
}

Tensor recv(const Tensor& like, int64_t group, int64_t peer) {
    Tensor y = copy(like);
    if (const auto comm = named(group)) comm->recv(y.mutable_data_ptr(), y.nbytes(), int(peer));
    return y;
}

Tensor same_shape(const Tensor& x, int64_t) { return at::empty_symint(x.sym_sizes(), x.options()); }
Tensor same_shape_from(const Tensor& x, int64_t group, int64_t) { return same_shape(x, group); }

Tensor widened(const Tensor& x, int64_t, int64_t size) {
    check_gather(x, size);
    auto sizes = x.sym_sizes().vec();
    sizes.back() = sizes.back() * size;
    return at::empty_symint(sizes, x.options());
}

}  // namespace mpsplit::torch_operators
