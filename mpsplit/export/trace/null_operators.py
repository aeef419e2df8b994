"""The operators of extensions/torch where that library was not built.

They have the same schemas, in a world without peers, and are true in shape, which is all that
tracing needs. Each has its fake kernel beside it. Real ranks need the library.
"""

from __future__ import annotations

import torch


@torch.library.custom_op("mpi_extensions::all_reduce", mutates_args=(), schema="(Tensor x, int group) -> Tensor")
def all_reduce(x: torch.Tensor, group: int) -> torch.Tensor:
    """The sum over the ranks of the group."""
    return x.clone()


@all_reduce.register_fake
def _(x, group):
    return torch.empty_like(x)


@torch.library.custom_op(
    "mpi_extensions::all_gather", mutates_args=(), schema="(Tensor x, int group, int size) -> Tensor"
)
def all_gather(x: torch.Tensor, group: int, size: int) -> torch.Tensor:
    """The ranks' tensors side by side along the last axis: [..., n] -> [..., size * n]."""
    return torch.cat([x] * size, dim=-1)


@all_gather.register_fake
def _(x, group, size):
    return x.new_empty(*x.shape[:-1], x.shape[-1] * size)


@torch.library.custom_op(
    "mpi_extensions::broadcast", mutates_args=(), schema="(Tensor x, int group, int root) -> Tensor"
)
def broadcast(x: torch.Tensor, group: int, root: int) -> torch.Tensor:
    """The root's tensor, on every rank."""
    return x.clone()


@broadcast.register_fake
def _(x, group, root):
    return torch.empty_like(x)


@torch.library.custom_op("mpi_extensions::send", mutates_args=(), schema="(Tensor x, int group, int peer) -> Tensor")
def send(x: torch.Tensor, group: int, peer: int) -> torch.Tensor:
    """Gives x to the peer; returns x, which must be used, or pnnx deletes the operator."""
    return x.clone()


@send.register_fake
def _(x, group, peer):
    return torch.empty_like(x)


@torch.library.custom_op("mpi_extensions::recv", mutates_args=(), schema="(Tensor like, int group, int peer) -> Tensor")
def recv(like: torch.Tensor, group: int, peer: int) -> torch.Tensor:
    """What the peer sent, of the shape of `like`; without an input pnnx would fold the operator
    into a constant."""
    return like.clone()


@recv.register_fake
def _(like, group, peer):
    return torch.empty_like(like)
