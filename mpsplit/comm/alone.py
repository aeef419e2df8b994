"""The one-rank stand-in: every collective is the identity, and there is nobody to send to."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpsplit.comm.json_wire import packed, unpacked
from mpsplit.comm.link_counts import nothing


class Alone:
    """One rank: every collective is the identity."""

    rank, size, bytes_sent, seconds, local_size, host_lead, passed = 0, 1, 0, 0.0, 1, True, nothing(1)
    timeout = 0.0

    @property
    def waits_for(self) -> list[int | None]:
        return [None]

    def all_reduce(self, x: np.ndarray) -> None:
        return None

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        return x

    def broadcast(self, x: np.ndarray, root: int) -> None:
        assert root == 0, f"rank {root} in a group of 1"

    def send(self, x: np.ndarray, peer: int) -> None:
        raise AssertionError(f"send to rank {peer} in a group of 1")

    def recv(self, x: np.ndarray, peer: int) -> None:
        raise AssertionError(f"receive from rank {peer} in a group of 1")

    def exchange(self, value: Any) -> list[Any]:
        return [unpacked(packed(value), 0)]  # as it would come from another rank

    def group(self, ranks: tuple[int, ...]) -> Alone:
        assert ranks == (0,), f"a group of ranks {ranks} in a world of 1"
        return self

    def wait(self) -> None:
        return None

    def tell(self, x: np.ndarray) -> None:
        return None

    def last_words(self, why: str) -> None:
        return None

    def listen(self, x: np.ndarray) -> None:
        raise AssertionError("one rank alone has nobody to listen to")
