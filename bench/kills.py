r"""kill -9, hundreds of times, at random moments, and whether anything is wrong afterwards.

    python bench/kills.py [PACKAGE] [--kills 500] [--share 0.5] [--seed 0]

PACKAGE is one for two ranks with its traced slices; without it a random one of llama-110m. A round
either serves it or converts it, over two ranks, and kills the front, mpirun, rank 0 or rank 1.

serve    clients stream answers and keep sessions. After the kill every process is gone within two
         seconds. No client has heard a wrong answer. The same port can be served again, and what
         was kept spares work or is passed over: the first answers of the next round are right.
convert  to 8 and 4 bits by turns. After the kill the package runs and is the one before or the one
         after, whole.

Prints how often what happened. Ends with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import json
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

from weather import Reply, Server, gone, processes

from mpsplit.export.random_package import random_package
from mpsplit.package.stored.quantisation import Quantisation

RANKS, PATIENCE = 2, 2.0  # seconds after which nothing may be left
PARTS = ("front", "mpirun", "rank 0", "rank 1")
KINDS = ("q8", "q4")


@dataclass
class Tally:
    """What happened, by (what was done, what was killed, what became of it)."""

    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, work: str, part: str, event: str, count: int = 1) -> None:
        self.counts[work, part, event] += count

    def fault(self, work: str, part: str, what: str) -> None:
        self.add(work, part, "WRONG")
        self.wrong.append(f"{work}, {part} killed: {what}")
        print(f"WRONG: {self.wrong[-1]}", flush=True)


def kill(pids: dict[str, int], part: str, tally: Tally, work: str) -> bool:
    """Whether it was there to be killed; what is left of the others is a fault."""
    if part not in pids:
        return False
    try:
        os.kill(pids[part], signal.SIGKILL)
    except ProcessLookupError:
        return False
    if left := gone(pids.values(), PATIENCE):
        names = [name for name, pid in pids.items() if pid in left]
        tally.fault(work, part, f"after {PATIENCE:g} s there is still {', '.join(names)}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    return True


class Serving:
    """Rounds of a server; sessions live on from round to round."""

    def __init__(self, package: Path, dice: random.Random):
        self.package, self.dice, self.port = package, dice, 0
        self.questions: list[tuple[dict, tuple[int, ...]]] = []

    def prepare(self) -> None:
        """Questions, each asked alone."""
        server = self.start()
        for number in range(12):
            prompt = [self.dice.randrange(3, 30000) for _ in range(self.dice.randrange(20, 200))]
            for turn in range(2):
                body = dict(prompt=list(prompt), max_tokens=self.dice.randrange(8, 24), temperature=0, ignore_eos=True)
                tokens = server.ask(body).tokens
                assert tokens, "a question alone was not answered"
                self.questions.append((body | {"session_id": f"kills-{number}"}, tokens))
                prompt += [*tokens, *range(5, 9 + turn)]
        server.end()

    def start(self) -> Server:
        server = Server(self.package, RANKS, port=self.port)
        self.port = server.port  # the same one again, after each kill
        return server

    def round(self, tally: Tally) -> None:
        part = self.dice.choice(PARTS)
        server = self.start()
        for question in self.dice.sample(self.questions, 3):
            self.heard(self.ask(server, question, stream=False), question, tally, "none yet")
        over = threading.Event()
        clients = [threading.Thread(target=self.client, args=(server, over, tally, part)) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(self.dice.uniform(0, 3))
        pids = processes(server.process.pid)
        kill(pids, part, tally, "serve")
        over.set()
        for client in clients:
            client.join()
        code, said = server.process.wait(), server.process.stderr.read().strip()
        tally.add("serve", part, f"ended with {code}, {len(said.splitlines())} lines")
        server.process.stdout.close()

    def client(self, server: Server, over: threading.Event, tally: Tally, part: str) -> None:
        while not over.is_set():
            question = self.dice.choice(self.questions)
            reply = self.ask(server, question, stream=self.dice.random() < 0.7)
            self.heard(reply, question, tally, part)
            if reply.tokens is None:
                return

    def ask(self, server: Server, question: tuple, stream: bool) -> Reply:
        return server.ask(question[0] | {"stream": stream}, patience=60)

    def heard(self, reply: Reply, question: tuple, tally: Tally, part: str) -> None:
        if reply.tokens == question[1]:
            tally.add("serve", part, "answers right")
        elif reply.tokens is not None:
            tally.fault("serve", part, f"another answer: {reply}")
        elif part == "none yet" or reply.status not in (0, 200, 500, 503):
            tally.fault("serve", part, f"no answer: {reply}")
        else:
            tally.add("serve", part, "told of an error" if reply.status else "cut off")


class Converting:
    """Rounds of a conversion in place."""

    def __init__(self, package: Path, dice: random.Random):
        self.package, self.dice, self.seconds = package, dice, 0.0
        self.right: dict[str, tuple[int, ...]] = {}
        self.next = 0

    def prepare(self) -> None:
        for kind in KINDS:
            began = time.monotonic()
            child = self.convert(kind)
            if child.wait():
                raise SystemExit(child.stderr.read())
            self.seconds = max(self.seconds, time.monotonic() - began)
            self.right[kind] = self.answer()

    def convert(self, kind: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "mpsplit", "convert", self.package, "--ranks", RANKS, "--quant", kind]
        return subprocess.Popen(
            [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def answer(self) -> tuple[int, ...]:
        command = [sys.executable, "-m", "mpsplit", "run", self.package, "--prompt-ids", "5,6,7,8,9"]
        command += ["--max-new-tokens", "8", "--ignore-eos", "--json"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        return tuple(json.loads(done.stdout)["token_ids"]) if done.returncode == 0 else (done.stderr,)

    def round(self, tally: Tally) -> None:
        part, kind = self.dice.choice(PARTS), KINDS[self.next % len(KINDS)]
        self.next += 1
        child = self.convert(kind)
        time.sleep(self.dice.uniform(0, self.seconds))
        killed = kill(processes(child.pid), part, tally, "convert")
        code = child.wait()
        answer = self.answer()
        found = [name for name, right in self.right.items() if right == answer]
        if not found:
            tally.fault("convert", part, f"the package says {answer}")
        when = "killed" if killed else "not there to be killed"
        tally.add("convert", part, f"{when}, ended with {code}, " + ("new" if found == [kind] else "old"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.5, help="of the rounds that serve; the rest convert")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    package = args.package or random_package("llama-110m", RANKS, Quantisation(8, 32))
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="mpsplit-kills-") as scratch:
        copies = [shutil.copytree(package, Path(scratch) / name) for name in ("served", "converted")]
        works = [Serving(copies[0], dice), Converting(copies[1], dice)]
        for work in works:
            work.prepare()
        began = time.monotonic()
        for done in range(1, args.kills + 1):
            works[dice.random() >= args.share].round(tally)
            if done % 25 == 0:
                print(f"{done} kills, {time.monotonic() - began:.0f} s, {len(tally.wrong)} wrong", flush=True)
    print("\n| work | killed | what became of it | how often |\n|---|---|---|---|")
    for (work, part, event), count in sorted(tally.counts.items()):
        print(f"| {work} | {part} | {event} | {count} |")
    print("\n".join(tally.wrong[:20]) or "nothing was wrong")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())
