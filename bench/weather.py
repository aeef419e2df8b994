"""A server in bad weather, for soak.py and kills.py: started over ranks, asked by many, and looked
at through /proc.

In: a package. Out: answers, processes, what they hold.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mpsplit.leash import leashed

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reply:
    """`tokens` of an answer that came to its end; otherwise why not. `kept` is what the server says
    of the session."""

    status: int
    tokens: tuple[int, ...] | None
    why: str = ""
    usage: dict | None = None


class Server:
    """`mpsplit serve` over ranks of its own, in a session of its own."""

    def __init__(self, package: Path, ranks: int, *options: str, port: int = 0):
        command = [sys.executable, "-m", "mpsplit", "serve", package, "--ranks", ranks, "--port", port, *options]
        self.process = leashed(
            [*map(str, command)], family=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        if not (address := re.search(r"http://([\d.]+):(\d+)", line)):
            raise SystemExit(f"the server did not start: {line}{self.process.stderr.read()}")
        self.host, self.port = address[1], int(address[2])

    def ask(self, body: dict, patience: float = 300, leave_after: float | None = None) -> Reply:
        """One completion of token ids. With `leave_after` the client hangs up after so many
        seconds, unless it has its answer by then."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=leave_after or patience)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read().decode()
            found = _whole(data) if body.get("stream") else json.loads(data)
            if answer.status != 200 or "error" in found:
                return Reply(answer.status, None, found.get("error", {}).get("message", data))
            choice = found["choices"][0]
            return Reply(200, tuple(choice["token_ids"]), usage=found.get("usage"))
        except TimeoutError:
            return Reply(0, None, "left" if leave_after else "no answer in time")
        except (OSError, http.client.HTTPException, ValueError) as wrong:
            return Reply(0, None, f"cut off: {type(wrong).__name__}")
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def gauge(self, name: str) -> float:
        """Of /metrics."""
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.M)[1])

    def end(self, patience: float = 60) -> int | None:
        """Its code; None where it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


def _whole(stream: str) -> dict:
    """What a stream would have been as one answer, or the error that ended it."""
    tokens: list[int] = []
    usage, finished = None, False
    for event in (json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")):
        if "error" in event:
            return event
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            tokens += choice.get("token_ids", ())
            finished = finished or bool(choice["finish_reason"])
    if not finished:
        raise ValueError("the stream has no end")
    return {"choices": [{"token_ids": tokens}], "usage": usage}


def processes(front: int) -> dict[str, int]:
    """The server's processes by their part: front, mpirun, rank 0, rank 1, ..."""
    found, queue = {"front": front}, [front]
    while queue:
        parent = queue.pop()
        for child in _children(parent):
            queue.append(child)
            try:
                environment = Path(f"/proc/{child}/environ").read_bytes()
                name = Path(f"/proc/{child}/comm").read_text().strip()
            except OSError:  # it has ended
                continue
            rank = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)", environment)
            part = "mpirun" if name in ("mpirun", "prterun") else f"rank {rank[1].decode()}" if rank else name
            found.setdefault(part, child)
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def naming(path: Path) -> list[int]:
    """Processes whose command line has the path in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(path) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def command_of(pid: int) -> str:
    """Who it is and how long it has been there, for people."""
    try:
        process = Path(f"/proc/{pid}")
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{words} ({time.time() - process.stat().st_ctime:.1f} s old)"
    except OSError:
        return "a process that has ended by now"


def alive(pid: int) -> bool:
    """Running or stopped, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds: float) -> list[int]:
    """Those that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def private_bytes(pid: int) -> int:
    """Resident memory that is not of mapped files."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) << 10 for name in ("RssAnon", "RssShmem"))


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
