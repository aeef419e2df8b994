"""torch.ops.mpi_extensions: the collectives as operators that dynamo keeps in the graph.

They come from the library of extensions/torch where it was built, else from null_operators.py.

Invariant: a group is null, true in shape and without peers, until `connect` names its ranks. So
tracing talks to nobody, also under mpirun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mpsplit.errors import RunError
from mpsplit.native import cpp
from mpsplit.package.collectives import COLLECTIVES, NAMESPACE


def _load_library() -> bool:
    path = cpp.torch_library()
    if path is None:
        return False
    try:
        torch.ops.load_library(path)
    except OSError as wrong:  # a library that it was linked with has gone
        cpp.say_it_does_not_load(path, wrong)
        return False
    return True


CONNECTS = _load_library()  # whether the operators can reach other ranks
if not CONNECTS:
    from mpsplit.export.trace import null_operators  # noqa: F401  defines them

all_reduce = torch.ops.mpi_extensions.all_reduce.default
all_gather = torch.ops.mpi_extensions.all_gather.default
broadcast = torch.ops.mpi_extensions.broadcast.default
send = torch.ops.mpi_extensions.send.default
recv = torch.ops.mpi_extensions.recv.default


def connect(groups: Mapping[int, Sequence[int]]) -> None:
    """Names the ranks of mpirun that each group stands for; no ranks make it null again. Talks to
    nobody yet."""
    if not CONNECTS:
        if max(map(len, groups.values())) > 1:
            raise RunError(
                "torch operators between ranks are not built here; run `python -m mpsplit.native` on each host"
            )
        return
    for group, ranks in groups.items():
        try:
            torch.ops.mpi_extensions.set_group(group, list(ranks))
        except ValueError as wrong:
            raise RunError(str(wrong)) from None


def bytes_sent() -> int:
    """What this rank has handed to the transport in its connected groups."""
    return torch.ops.mpi_extensions.bytes_sent() if CONNECTS else 0


def collective_of(target: object) -> str | None:
    """The collective behind the target of an fx node: "all_reduce", or None."""
    name = str(target).removeprefix("torch.ops.").removesuffix(".default")
    namespace, _, operator = name.partition(".")
    return operator if namespace == NAMESPACE else None


assert all(hasattr(torch.ops.mpi_extensions, c.operator) for c in COLLECTIVES), (
    "an operator of the table is missing here"
)
