r"""Hours of everything at once against a server over two ranks, and whether anything is left of it.

    python bench/soak.py [PACKAGE] [--hours 0.67] [--clients 8] [--seed 0]

Without PACKAGE a random one of llama-110m in 8 bits. First every question is asked alone. Then
clients ask them in any order, some over sessions that come and go, some with a seed, some over
streams; some hang up. Meanwhile a follower is stopped now and then, for less than the limit, and
once the disk on which sessions are kept is full for a minute. Every answer must equal the one
alone. At the end nothing runs, no page is lost, no file is left that nothing names, and memory has
not grown. Pages of requests come and go, so it is looked at in rests, forty in all, when nobody
asks anything; the slope of each process is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from weather import Server, gone, open_files, private_bytes, processes

from mpsplit.export.random_package import random_package
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.package.together.folder_lock import LOCK
from mpsplit.runtime.kept.kept_texts import KeptText

RANKS, SESSION_MIB, RESTS = 2, 256, 40
STYLES = (  # of choosing a token; the seed makes each one repeatable
    dict(temperature=0),
    dict(temperature=0.8, seed=7),
    dict(temperature=1.1, top_p=0.9, seed=8),
    dict(temperature=0.7, top_k=40, repetition_penalty=1.2, seed=9),
    dict(temperature=0.9, min_p=0.05, presence_penalty=0.5, seed=10),
)
BUSY = {429, 503}  # a server may say so


@dataclass(frozen=True)
class Question:
    """A turn of a conversation: all its tokens so far, and the answer that is right."""

    conversation: int
    body: dict
    right: tuple[int, ...]


@dataclass
class Weather:
    """What has happened so far."""

    over: float
    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)  # clients may ask

    @property
    def left(self) -> float:
        return self.over - time.monotonic()


def questions(server: Server, conversations: int, dice: random.Random, vocabulary: int) -> list[Question]:
    """Conversations of three turns each, asked alone."""
    found = []
    for conversation in range(conversations):
        prompt = [dice.randrange(3, vocabulary) for _ in range(dice.randrange(8, 160))]
        style = STYLES[conversation % len(STYLES)]
        for _ in range(3):
            body = dict(prompt=list(prompt), max_tokens=dice.randrange(4, 40), ignore_eos=True, **style)
            reply = server.ask(body)
            if reply.tokens is None:
                raise SystemExit(f"a question alone was not answered: {reply}")
            found.append(Question(conversation, body, reply.tokens))
            prompt += [*reply.tokens, *(dice.randrange(3, vocabulary) for _ in range(dice.randrange(1, 30)))]
    return found


def running(server: Server) -> float:
    return server.gauge("mpsplit_requests_running") + server.gauge("mpsplit_requests_waiting")


def client(server: Server, asked: list[Question], weather: Weather, dice: random.Random) -> None:
    while weather.left > 0:
        weather.open.wait()
        question = dice.choice(asked)
        body = dict(question.body, stream=dice.random() < 0.5)
        if dice.random() < 0.6:
            body["session_id"] = f"soak-{question.conversation}-{dice.randrange(4)}"
        leave = dice.uniform(0.05, 3) if dice.random() < 0.15 else None
        reply = server.ask(body, leave_after=leave)
        weather.counts[outcome(reply, question, weather)] += 1


def outcome(reply, question: Question, weather: Weather) -> str:
    if reply.tokens == question.right:
        return "right"
    if reply.why == "left":
        return "hung up"
    if reply.status in BUSY:
        return "refused, busy"
    told = {name: value for name, value in question.body.items() if name != "prompt"}
    weather.wrong.append(
        f"{reply.status} {reply.why or 'another answer'} to {len(question.body['prompt'])} tokens, {told}"
    )
    return "WRONG" if reply.tokens is not None else "FAILED"


def stop_followers(front: int, weather: Weather, dice: random.Random, longest: float) -> None:
    follower = processes(front)["rank 1"]
    while weather.left > 60:
        time.sleep(dice.uniform(20, 60))
        os.kill(follower, signal.SIGSTOP)
        time.sleep(dice.uniform(0.1, longest))
        os.kill(follower, signal.SIGCONT)
        weather.counts["follower stopped"] += 1


def fill_disk(disk: Path, weather: Weather) -> None:
    """Once, for a minute or a tenth of the time."""
    time.sleep(weather.left / 3)
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            weather.counts["disk full"] += 1
    time.sleep(min(60, weather.left / 10))
    ballast.unlink(missing_ok=True)


class Watcher(threading.Thread):
    """Looks at all processes in each rest; `seen` is [seconds, bytes of each]."""

    def __init__(self, server: Server, weather: Weather):
        super().__init__(daemon=True)
        self.server, self.weather = server, weather
        self.parts = processes(server.process.pid)
        self.began, self.seen = time.monotonic(), []

    def run(self) -> None:
        pause = self.weather.left / RESTS
        while self.weather.left > 0:
            self.weather.open.set()
            time.sleep(pause)
            self.weather.open.clear()
            while running(self.server):
                time.sleep(0.1)
            time.sleep(1)  # what is being saved
            self.seen.append([time.monotonic() - self.began, *map(private_bytes, self.parts.values())])
        self.weather.open.set()

    def slopes(self) -> dict[str, float]:
        """MiB an hour of each process, after the first quarter of the time."""
        table = np.array(self.seen[len(self.seen) // 4 :])
        lines = np.polyfit(table[:, 0] / 3600, table[:, 1:] / 2**20, 1)[0]
        return dict(zip(self.parts, lines, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path)
    parser.add_argument("--hours", type=float, default=0.67)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    package = args.package or random_package("llama-110m", RANKS, Quantisation(8, 32))
    with tempfile.TemporaryDirectory(prefix="mpsplit-soak-") as scratch:
        mine = shutil.copytree(package, Path(scratch) / "package", ignore=shutil.ignore_patterns("sessions"))
        disk = mine / "sessions"
        disk.mkdir()
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", disk], capture_output=True, check=False
        ).returncode
        try:
            return soak(mine, disk if mounted else None, args)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", disk], check=True)


def soak(package: Path, disk: Path | None, args: argparse.Namespace) -> int:
    dice = random.Random(args.seed)
    limits = ["--cache", "8192", "--max-concurrent", str(args.clients), "--session-mib", str(SESSION_MIB)]
    server = Server(package, RANKS, *limits)
    asked = questions(server, 30, dice, vocabulary=32000)
    print(f"{len(asked)} questions asked alone; now {args.clients} clients for {args.hours:g} hours", flush=True)
    weather = Weather(time.monotonic() + args.hours * 3600)
    watcher = Watcher(server, weather)
    files = {part: open_files(pid) for part, pid in watcher.parts.items()}
    work = [
        threading.Thread(target=client, args=(server, asked, weather, random.Random(f"{args.seed}-{n}")))
        for n in range(args.clients)
    ]
    work.append(threading.Thread(target=stop_followers, args=(server.process.pid, weather, dice, 8.0)))
    if disk:
        work.append(threading.Thread(target=fill_disk, args=(disk, weather)))
    else:
        print("no file system can be mounted here: the disk is never full", flush=True)
    watcher.start()
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    time.sleep(2)
    return told(server, watcher, weather, files, package)


def unnamed(package: Path) -> list[Path]:
    """Files of sessions that no kept.json names, and what is hidden but for locks."""
    found = [path for path in package.rglob(".*") if path.name != LOCK]
    for path in (package / "sessions").rglob("*.kv"):
        saves = KeptText.read(package, path.parent.relative_to(package).as_posix()).saves
        if path.name.split(".")[1] not in saves:
            found.append(path)
    return found


def told(server: Server, watcher: Watcher, weather: Weather, files: dict[str, int], package: Path) -> int:
    faults = list(weather.wrong)
    if left := running(server):
        faults.append(f"{left:g} requests are left")
    if used := server.gauge('mpsplit_pages{state="used"}'):
        faults.append(f"{used:g} pages are lost")
    for part, pid in watcher.parts.items():
        more = open_files(pid) - files[part]
        if more > 8:
            faults.append(f"{part} has {more} more open files")
    code = server.end()
    if code is None:
        faults.append("the server did not end within a minute")
    elif code:
        faults.append(f"the server ended with {code}: {server.process.stderr.read()}")
    if left := gone(watcher.parts.values(), 2):
        faults.append(f"processes are left: {left}")
    faults += [f"{path} is left" for path in unnamed(package)]
    print("\n| what | how often |\n|---|---|")
    for what, count in sorted(weather.counts.items()):
        print(f"| {what} | {count} |")
    print("\n| process | MiB at the end | MiB an hour |\n|---|---|---|")
    for (part, slope), size in zip(watcher.slopes().items(), watcher.seen[-1][1:], strict=True):
        print(f"| {part} | {size / 2**20:.1f} | {slope:+.2f} |")
    size = sum(path.stat().st_size for path in (package / "sessions").rglob("*.kv")) / 2**20
    print(f"\nsessions on disk: {size:.1f} MiB of {SESSION_MIB}")
    if size > SESSION_MIB:
        faults.append(f"sessions take {size:.1f} MiB")
    print("\n".join(faults[:20]) or "nothing was wrong")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
