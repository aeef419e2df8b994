"""What one rank's machine gives it: memory, how fast that is read, and the disk.

In: /proc, cgroups, a folder. Out: bytes and bytes a second. Invariant: nothing stays on the disk.
"""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import time
from pathlib import Path

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.native.cpp import kernels
from mpsplit.package.json_fields import text
from mpsplit.package.together.exchanged import exchanged, plain

PARTS = 8  # of the file, one a round: so that no round finds in memory what another has read
PIECE = 8 << 20
HOST = text(r"[^\x00-\x1f\x7f]{0,256}", "a host's name")
PATIENCE = 2.0  # seconds of writing; a slow disk gets a smaller file


def busy_share(seconds: float = 0.3) -> float:
    """The part of this machine's cores that others use while we sleep."""
    before = cpu_ticks(Path("/proc/stat").read_text(encoding="utf-8"))
    time.sleep(seconds)
    after = cpu_ticks(Path("/proc/stat").read_text(encoding="utf-8"))
    idle, total = (b - a for a, b in zip(before, after, strict=True))
    return 1 - idle / max(total, 1)


def cpu_ticks(text: str) -> tuple[int, int]:
    """(idle, all) since the machine started, of /proc/stat's first line.

    Its words are: user nice system idle iowait irq softirq steal ...
    """
    ticks = [int(word) for word in text.split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def process_bytes() -> int:
    """What this process holds of memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def host_names(comm: Communicator) -> list[str]:
    """A name for the host of each rank.

    What are two hosts to the communicator have two names, whatever they call themselves.
    """
    names = exchanged(comm, socket.gethostname(), plain(HOST))
    name_of: dict[object, str] = {}
    for host, name in zip(getattr(comm, "hosts", names), names, strict=True):
        if host not in name_of:
            same = sum(other.partition("#")[0] == name for other in name_of.values())
            name_of[host] = f"{name}#{same + 1}" if same else name
    return [name_of[host] for host in getattr(comm, "hosts", names)]


class MemoryProbe:
    """More than caches hold, to read through."""

    def __init__(self, size: int, threads: int):
        self.data, self.threads = np.ones(size, np.uint8), threads

    def rate(self) -> float:
        began = time.perf_counter()
        if compiled := kernels(required=False):
            compiled.read_through(self.data, self.threads)
        else:
            self.data.view(np.uint64).max()  # one thread, and slower than the memory may be
        return self.data.nbytes / (time.perf_counter() - began)


class DiskProbe:
    """A file of this rank in `folder`, gone from the page cache before each reading.

    Nobody sees it, and it ends with the process.
    """

    def __init__(self, folder: Path, size: int):
        try:
            self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (lives as long as the probe)
            self.part = self._write(min(size, _free(folder) // 8)) // PARTS
        except OSError as wrong:
            raise RunError(f"cannot write to {folder} ({wrong.strerror}); give another folder with --disk") from None
        self.turn = 0

    def _write(self, size: int) -> int:
        piece, began, written = np.random.default_rng(0).bytes(min(PIECE, max(size, PARTS))), time.perf_counter(), 0
        while written < max(size, PARTS) and (not written or time.perf_counter() - began < PATIENCE):
            written += self.file.write(piece)
            os.fsync(self.file.fileno())
        return written

    def rate(self) -> float:
        descriptor, start = self.file.fileno(), self.turn % PARTS * self.part
        self.turn += 1
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        done = 0
        while done < self.part:
            done += len(os.pread(descriptor, min(1 << 20, self.part - done), start + done))
        return self.part / (time.perf_counter() - began)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
