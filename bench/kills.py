r"""kill -9, hundreds of times, at random moments, and whether anything is wrong afterwards.

    python bench/kills.py [--shape llama-15m] [--kills 500] [--minutes M] [--folder DIR]

A random model of the shape, over two ranks. A round does one of these, and kills the front, mpirun,
rank 0 or rank 1:

stream   a server whose clients stream long answers.
save     a server whose answers are short, and all of sessions: most of its time it saves. After the
         kill no client has heard a wrong answer, the same port can be served again, and what was
         kept spares work or is passed over: the first answers of the next round are right.
convert  to 8 and 4 bits by turns, in place.
split    `partition --force` over the package, by tensors and by stages by turns. After the kill
         the package runs, and is byte for byte the one before or the one after.

Whatever was killed, two seconds later none of its processes is there. Prints how often what
happened, and ends with 1 where anything was wrong. With --folder everything stays there, and the
next call goes on with it: the table is that of all calls.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
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
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from weather import Reply, Server, alive, command_of, gone, naming, processes

from mpsplit.errors import MpsplitError
from mpsplit.export.model.named_shapes import find_shape
from mpsplit.export.random_package import random_checkpoint
from mpsplit.leash import leashed
from mpsplit.package.manifest import Manifest
from mpsplit.package.together.package_commit import PARTITION, partition_home

RANKS, PATIENCE = 2, 2.0  # seconds after which nothing may be left
PARTS = ("front", "mpirun", "rank 0", "rank 1")
SHARES = {"stream": 4, "save": 4, "convert": 3, "split": 1}  # of the rounds
KINDS = ("q8", "q4")
SPLITS = {"tensor": ["--tensor", RANKS], "pipeline": ["--pipeline", RANKS]}
LENGTHS = {"stream": (40, 160), "save": (2, 5)}  # tokens of an answer


def mpsplit(*words) -> subprocess.Popen:
    command = [sys.executable, "-m", "mpsplit", *map(str, words)]
    return leashed(command, family=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(*words) -> str:
    """What the command says when it has ended well."""
    child = mpsplit(*words)
    said, wrong = child.communicate()
    if child.returncode:
        raise SystemExit(f"mpsplit {' '.join(map(str, words))}: {wrong}")
    return said


class Tally:
    """What happened, by (what was done, what was killed, what became of it)."""

    def __init__(self, file: Path):
        self.file, told = file, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.kills: int = told.get("kills", 0)
        self.counts = Counter({tuple(key.split("|")): count for key, count in told.get("counts", {}).items()})
        self.wrong: list[str] = told.get("wrong", [])
        self.lock = threading.Lock()

    def write(self) -> None:
        """For the next call, whatever becomes of this one."""
        with self.lock:
            counts = {"|".join(key): count for key, count in sorted(self.counts.items())}
            told = {"kills": self.kills, "counts": counts, "wrong": self.wrong}
            self.file.write_text(json.dumps(told, indent=1), encoding="utf-8")

    def add(self, work: str, part: str, event: str) -> None:
        with self.lock:
            self.counts[work, part, event] += 1

    def killed(self) -> None:
        with self.lock:
            self.kills += 1

    def fault(self, work: str, part: str, what: str) -> None:
        self.add(work, part, "WRONG")
        self.wrong.append(f"{work}, {part} killed: {what}")
        print(f"WRONG: {self.wrong[-1]}", flush=True)


@dataclass
class Round:
    """A kill of one part; what it finds goes to the tally."""

    work: str
    part: str
    tally: Tally

    def add(self, event: str) -> None:
        self.tally.add(self.work, self.part, event)

    def fault(self, what: str) -> None:
        self.tally.fault(self.work, self.part, what)

    def kill(self, front: int, package: Path) -> bool:
        """Whether the part was there to be killed. What is left of the others, or of anybody who
        names the package, is a fault."""
        pids = processes(front)
        if self.part not in pids:
            return False
        try:
            os.kill(pids[self.part], signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.tally.killed()
        gone(pids.values(), PATIENCE)
        names = {pid: name for name, pid in pids.items()}
        for pid in filter(alive, {*pids.values(), *naming(package)}):
            self.fault(f"after {PATIENCE:g} s there is still {names.get(pid) or command_of(pid)}")
            os.kill(pid, signal.SIGKILL)
        return True


@dataclass(frozen=True)
class Right:
    """What is right: questions with the answers they have alone, and by split and kind the
    package's manifest and its answer."""

    questions: dict[str, list]
    packages: dict[str, list]

    @classmethod
    def found(cls, model: Path, package: Path, vocabulary: int, dice: random.Random) -> Right:
        """Leaves the package by tensors in 8 bits."""
        packages = {}
        for split in reversed(SPLITS):
            done("partition", model, "--out", package, "--force", *SPLITS[split])
            for kind in reversed(KINDS):
                done("convert", package, "--ranks", RANKS, "--quant", kind, "--no-calibrate")
                packages[f"{split} {kind}"] = [fingerprint(package), answer(package)]
        server = Server(package, RANKS)
        questions: dict[str, list] = {}
        for work, between in LENGTHS.items():
            for number in range(12):
                prompt = [dice.randrange(3, vocabulary) for _ in range(dice.randrange(20, 200))]
                for turn in range(2):
                    body = dict(prompt=list(prompt), max_tokens=dice.randrange(*between), temperature=0)
                    body |= dict(ignore_eos=True, session_id=f"{work}-{number}")
                    reply = server.ask(body)
                    if reply.tokens is None:
                        raise SystemExit(f"a question alone was not answered: {reply}")
                    questions.setdefault(work, []).append([body, list(reply.tokens)])
                    prompt += [*reply.tokens, *range(5, 9 + turn)]
        server.end()
        shutil.rmtree(package / "sessions")
        return cls(questions, packages)


def fingerprint(package: Path) -> str:
    """Of the manifest, which names every file by its content; or what is wrong."""
    try:
        manifest = Manifest.load(package)
        for rank in range(RANKS):
            manifest.check_files(package, rank, again=True)
        return hashlib.sha256((package / "manifest.json").read_bytes()).hexdigest()
    except (MpsplitError, OSError) as wrong:
        return str(wrong)


def answer(package: Path) -> list[int]:
    command = ["run", package, "--prompt-ids", "5,6,7,8,9", "--max-new-tokens", 8, "--ignore-eos", "--json"]
    return json.loads(done(*command))["token_ids"]


class Serving:
    """Rounds of a server; sessions live on from round to round."""

    def __init__(self, package: Path, right: Right, dice: random.Random):
        self.package, self.right, self.dice, self.port = package, right, dice, 0

    def play(self, this: Round) -> None:
        try:
            server = Server(self.package, RANKS, port=self.port)  # the same one again, after each kill
        except SystemExit as wrong:
            return this.fault(str(wrong))
        self.port, questions = server.port, self.right.questions[this.work]
        for question in self.dice.sample(questions, 3):
            reply = self.ask(server, question, this.work)
            if reply.tokens != tuple(question[1]):
                this.fault(f"before: {reply}, not {question[1]}, to {question[0]}")
            else:
                kept = (reply.usage or {}).get("mpsplit", {}).get("kept", {})
                this.add("kept from before: " + ("used" if "hit" in kept else str(kept.get("miss", "nothing"))))
        over = threading.Event()
        clients = [threading.Thread(target=self.client, args=(server, this, over)) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(self.dice.uniform(0, 1))
        this.kill(server.process.pid, self.package)
        over.set()
        for client in clients:
            client.join()
        code, said = server.process.wait(), server.process.stderr.read().strip()
        this.add(f"ended with {code}, {len(said.splitlines())} lines")
        server.process.stdout.close()
        server.process.stderr.close()

    def client(self, server: Server, this: Round, over: threading.Event) -> None:
        while not over.is_set():
            question = self.dice.choice(self.right.questions[this.work])
            reply = self.ask(server, question, this.work)
            if reply.tokens == tuple(question[1]):
                this.add("answers right")
            elif reply.tokens is not None:
                this.fault(f"another answer: {reply}, not {question[1]}, to {question[0]}")
            elif reply.status not in (0, 200, 500, 503):
                this.fault(f"no answer: {reply}")
            else:
                this.add("told of an error" if reply.status else "cut off")
            if reply.tokens is None:
                return

    def ask(self, server: Server, question: list, work: str) -> Reply:
        how = {"stream": True, "stream_options": {"include_usage": True}} if work == "stream" else {}
        return server.ask(question[0] | how, patience=60)


class Making:
    """Rounds of conversions and partitions in place."""

    def __init__(self, package: Path, right: Right, dice: random.Random, model: Path):
        self.package, self.right, self.dice, self.model = package, right, dice, model
        self.seconds = {"convert": 4.0, "split": 8.0}  # that they take, about

    def play(self, this: Round) -> None:
        before = self.state()
        if before is None:
            return this.fault(f"before: {fingerprint(self.package)}")
        kind, waiting = before.split()[1], self.waiting()
        if this.work == "convert":
            kind = KINDS[kind == KINDS[0]]
            child = mpsplit("convert", self.package, "--ranks", RANKS, "--quant", kind, "--no-calibrate")
            after = f"{waiting} {kind}"
        else:
            other = next(name for name in SPLITS if name != waiting)
            child = mpsplit("partition", self.model, "--out", self.package, "--force", *SPLITS[other])
            after = before
        began = time.monotonic()
        time.sleep(self.dice.uniform(0.2, self.seconds[this.work]))
        killed = this.kill(child.pid, self.package)
        child.communicate()
        took = time.monotonic() - began
        self.seconds[this.work] = self.seconds[this.work] * 1.05 if killed else min(self.seconds[this.work], took)
        found = self.state()
        if found not in (before, after):
            this.fault(f"it was {before}, became {after}, and is {found or fingerprint(self.package)}")
        elif self.dice.random() < 0.2 and (said := answer(self.package)) != self.right.packages[found][1]:
            this.fault(f"the package says {said}")
        when = "killed" if killed else "not there to be killed"
        this.add(f"{when}, ended with {child.returncode}, " + ("as before" if found == before else "new"))

    def state(self) -> str | None:
        """Split and kind of the package, which is whole."""
        now = fingerprint(self.package)
        return next((name for name, (right, _) in self.right.packages.items() if right == now), None)

    def waiting(self) -> str:
        """The split that the next conversion makes a package of."""
        stages = Manifest.load(partition_home(self.package), PARTITION).plan.stages
        return "tensor" if len(stages) == 1 else "pipeline"


def worker(folder: Path, number: int, right: Right, model: Path, kills: int, until: float, seed: str, tally: Tally):
    """Rounds until there are so many kills, or it is so late, with packages of its own."""
    dice = random.Random(f"{seed}-{number}")
    served, made = (folder / f"{name}-{number}" for name in ("served", "made"))
    for package in (served, made):
        if not package.is_dir():
            shutil.copytree(folder / "package", package)
    serving, making = Serving(served, right, dice), Making(made, right, dice, model)
    works = {"stream": serving, "save": serving, "convert": making, "split": making}
    while tally.kills < kills and time.monotonic() < until:
        work = dice.choices(list(SHARES), list(SHARES.values()))[0]
        works[work].play(Round(work, dice.choice(PARTS), tally))
        tally.write()


def prepared(folder: Path, shape: str, seed: int) -> tuple[Right, Path]:
    model, known = random_checkpoint(shape), folder / "right.json"
    if not known.is_file():
        right = Right.found(model, folder / "package", find_shape(shape).vocabulary, random.Random(seed))
        known.write_text(json.dumps(vars(right)), encoding="utf-8")
    return Right(**json.loads(known.read_text(encoding="utf-8"))), model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama-15m", help="of named_shapes.py")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most")
    parser.add_argument("--at-once", type=int, default=3, help="rounds, each with packages of its own")
    parser.add_argument("--folder", type=Path, help="where everything stays for the next call")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory(prefix="mpsplit-kills-") as named:
        folder = Path(named)
        folder.mkdir(parents=True, exist_ok=True)
        right, model = prepared(folder, args.shape, args.seed)
        tally = Tally(folder / "tally.json")
        began, before = time.monotonic(), tally.kills
        until, seed = began + args.minutes * 60, f"{args.seed}-{before}"
        kills = before + args.kills
        play = partial(worker, folder, right=right, model=model, kills=kills, until=until, seed=seed, tally=tally)
        workers = [threading.Thread(target=play, args=(number,)) for number in range(args.at_once)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    print(f"{tally.kills - before} kills in {time.monotonic() - began:.0f} s, {tally.kills} in all")
    print("\n| work | killed | what became of it | how often |\n|---|---|---|---|")
    for (work, part, event), count in sorted(tally.counts.items()):
        print(f"| {work} | {part} | {event} | {count} |")
    print("\n".join(tally.wrong[:20]) or "nothing was wrong")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())
