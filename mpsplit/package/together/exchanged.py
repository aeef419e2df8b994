"""What ranks tell each other in JSON, looked at before it is used.

In: a communicator, this rank's value, what reads one. Out: every rank's value, read.

Invariant: a rank of another version gives one line that names it, no KeyError far from its cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mpsplit.comm import Communicator
from mpsplit.errors import MpsplitError, RunError
from mpsplit.package.json_fields import Kind

T = TypeVar("T")
Read = Callable[[Any], T]  # from JSON


def plain(kind: Kind) -> Read[Any]:
    """Reads a value of this kind as it is."""

    def read(value: Any) -> Any:
        kind(value, "it")
        return value

    return read


def optional(read: Read[T]) -> Read[T | None]:
    return lambda value: None if value is None else read(value)


def exchanged(comm: Communicator, value: Any, read: Read[T]) -> list[T]:
    """In the order of the ranks; all call."""
    return [_read(value, read, f"rank {rank}") for rank, value in enumerate(comm.exchange(value))]


def of_rank_0(comm: Communicator, value: Any, read: Read[T]) -> T:
    """What rank 0 says; what the others give does not count."""
    return _read(comm.exchange(value if comm.rank == 0 else None)[0], read, "rank 0")


def by_rank(comm: Communicator, mine: Mapping[int, Any], read: Read[T]) -> list[T]:
    """What each rank of a plan has, in order, where a process may speak for several."""
    found: dict[int, T] = {}
    for speaker, values in enumerate(comm.exchange({str(rank): value for rank, value in mine.items()})):
        who = f"rank {speaker}"
        found |= {_read(rank, int, who): _read(value, read, who) for rank, value in _read(values, dict, who).items()}
    if sorted(found) != list(range(len(found))):
        raise RunError(f"ranks {', '.join(map(str, sorted(found)))} spoke, and not all; start all ranks again")
    return [found[rank] for rank in range(len(found))]


def _read(value: Any, read: Read[T], who: str) -> T:
    try:
        return read(value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, MpsplitError) as wrong:
        raise RunError(
            f"{who} sent what this rank cannot read ({wrong}); install the same mpsplit for all ranks"
        ) from None
