"""Joining Ray's cluster, and leaving it.

In: RAY_ADDRESS, or the cluster that `ray start` began on this machine. Out: the module ray, joined.
Invariant: signals are heard by whom they were heard before; ray.init takes SIGTERM for itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpsplit.errors import LaunchError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else it tells its makers over the network
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # else what befalls an actor is printed among the answers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of what its next version does
}
LISTENS = 5  # seconds


def load() -> Any:
    """The module, or how to get it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise LaunchError("Ray is not installed here; run `pip install 'mpsplit[ray]'`") from None
    return ray


@contextmanager
def joined(start_one: bool) -> Iterator[Any]:
    """ray, while the block runs. Where there is no cluster, `start_one` of this machine alone; it
    ends with the block."""
    ray = load()
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        _look_for(os.environ.get("RAY_ADDRESS", ""))
        ray.init(
            None if start_one else "auto", logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as wrong:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        raise LaunchError(
            f"there is no Ray cluster to join at {address} ({last_line(wrong)}); start one with `ray start --head`, or"
            " name it by RAY_ADDRESS=HOST:6379"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _look_for(address: str) -> None:
    """An OSError where nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=LISTENS).close()


def last_line(wrong: BaseException) -> str:
    """Of Ray's errors, which end with what happened after the frames of a worker."""
    lines = [line.strip() for line in str(wrong).splitlines() if line.strip()]
    return (lines or [type(wrong).__name__])[-1][:300]
