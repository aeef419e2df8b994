"""Disks that refuse one call: fail_calls.c in the ranks, steered by a file that they map.

In: a file of 4096 zeros, a rank, which call. Out: whether it was made, and refused.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from mpsplit.native import cpp


def library(folder: Path) -> Path:
    """fail_calls.c, for LD_PRELOAD."""
    path, source = folder / "fail_calls.so", Path(__file__).with_name("fail_calls.c")
    subprocess.run([cpp.compiler(), "-x", "c", "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


class Faults:
    """Of one rank."""

    def __init__(self, path: Path, rank: int):
        with open(path, "r+b") as file:
            self.map, self.at = mmap.mmap(file.fileno(), 4096), 16 * rank

    def arm(self, call: int) -> None:
        self.map[self.at : self.at + 16] = struct.pack("2q", call, 0)

    @property
    def fired(self) -> bool:
        call, seen = struct.unpack("2q", self.map[self.at : self.at + 16])
        return seen >= call > 0
