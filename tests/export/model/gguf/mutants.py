"""Mutants of GGUF files, read as `plan` and `partition` read them, in a process of its own.

In: a folder of files, the first seed, how many. Out: what was not told in one line, as JSON.

A mutant is a package plan, or an MpsplitError of one line. Anything else is a finding: another
exception, more than SECONDS of CPU, or more memory than MOST on top of what Python takes, where
MemoryError shows it. Invariant: a mutant depends on its seed and on the files alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mpsplit import cli
from mpsplit.errors import MpsplitError
from mpsplit.export.model import model_source
from mpsplit.export.model.gguf.gguf_blocks import GgufBlocks
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_contents import describe
from mpsplit.export.model.gguf.gguf_header import _Header
from mpsplit.export.partition import examine
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import WHOLE, linears_of
from mpsplit.plan.model_facts import ModelFacts

SECONDS, MOST = 5, 1 << 30
EXTREMES = (0, 1, 2, 3, 31, 255, 256, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1,
            1 << 63, (1 << 64) - 1)  # fmt: skip


class Fields(_Header):
    """Where the header of a sound file has its numbers and texts."""

    def __init__(self, file: Path, data: bytes):
        super().__init__(file, data)  # type: ignore[arg-type]  # which it only cuts
        self.numbers: list[range] = []
        self.texts: list[range] = []  # with their length
        self.read()

    def number(self, kind: struct.Struct):
        self.numbers.append(range(self.at, self.at + kind.size))
        return super().number(kind)

    def text(self) -> str:
        began = self.at
        text = super().text()
        self.texts.append(range(began, self.at))
        return text


@dataclass(frozen=True)
class Sound:
    """A file, of which mutants are made."""

    data: bytes
    fields: Fields

    @classmethod
    def load(cls, path: Path) -> Sound:
        data = path.read_bytes()
        return cls(data, Fields(path, data))

    @property
    def header(self) -> int:
        return self.fields.at


def another_number(sound: Sound, out: bytearray, rng: random.Random) -> None:
    """A length, a count, a type, an axis, a place or a setting."""
    at = rng.choice(sound.fields.numbers)
    if at.stop > len(out):
        return
    value, top = int.from_bytes(out[at.start : at.stop], "little"), 1 << 8 * len(at)
    near = (value + 1, value - 1, value * 2, value // 2, value << 32, -value, len(sound.data), rng.randrange(40))
    out[at.start : at.stop] = (rng.choice((*EXTREMES, *near)) % top).to_bytes(len(at), "little")


def another_text(sound: Sound, out: bytearray, rng: random.Random) -> None:
    """Which has its true length: one of the file's own, or one with letters changed."""
    at, other = rng.choice(sound.fields.texts), rng.choice(sound.fields.texts)
    if at.stop > len(out):
        return
    text = bytearray(sound.data[other.start + 8 : other.stop])
    if rng.random() < 0.5 and text:
        text[rng.randrange(len(text))] = rng.choice(b"\x00\xff\n 0189.-*[")
    if rng.random() < 0.1:
        text *= rng.choice((0, 2, 50))
    out[at.start : at.stop] = struct.pack("<Q", len(text)) + text


def other_bytes(sound: Sound, out: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(min(sound.header, len(out)) + 1), rng.choice((1, 1, 2, 4, 8, 40))
    piece = bytes(out[at : at + length])
    out[at : at + length] = rng.choice((b"", piece * 2, rng.randbytes(len(piece)), b"\xff" * length, b"\0" * length))


def other_weights(sound: Sound, out: bytearray, rng: random.Random) -> None:
    """Scales that are not finite among them."""
    if len(out) > sound.header:
        at = rng.randrange(sound.header, len(out))
        out[at : at + 64] = rng.choice((rng.randbytes, lambda n: b"\xff" * n))(len(out[at : at + 64]))


def cut(sound: Sound, out: bytearray, rng: random.Random) -> None:
    del out[rng.randrange(rng.choice((sound.header, len(sound.data)))) :]


WAYS: tuple[Callable[[Sound, bytearray, random.Random], None], ...] = (
    *(another_number,) * 5, *(another_text,) * 3, other_bytes, other_bytes, other_weights, cut,
)  # fmt: skip


def mutant(sounds: list[Sound], seed: int) -> bytes:
    rng = random.Random(seed)
    sound = rng.choice(sounds)
    out = bytearray(sound.data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(WAYS)(sound, out, rng)
    return bytes(out)


class Hang(BaseException):
    pass


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Of CPU, so that a busy machine finds nothing."""

    def ended(*_):
        raise Hang(f"{seconds} s of CPU are over")

    signal.signal(signal.SIGVTALRM, ended)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def planned(path: Path) -> str:
    """What `plan` says that is wrong; "" for a plan."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()) as plan:
        code = cli.main(["plan", str(path), "--ranks", "1", "--dry-run", "--json"])
    if not code:
        json.loads(plan.getvalue())
        return ""
    lines = [line for line in said.getvalue().splitlines() if line.startswith("mpsplit: ")]
    assert code == 2 and len(lines) == 1, said.getvalue()
    return lines[0]


def read(path: Path) -> None:
    """Every weight in its own blocks and as numbers, as `partition` and `convert` come by them."""
    folder = model_source.find_config(str(path))
    facts = ModelFacts.from_config(model_source.read_config(folder))
    examine(folder)
    checkpoint = GgufCheckpoint(path)
    try:
        blocks = GgufBlocks(checkpoint, facts, Recipe(own=True))
        for name in linears_of(facts):
            blocks.stored(name, WHOLE, 0, checkpoint.entries[blocks.tensor_of(blocks._tensor(name), facts)].shape[0])
        for name in checkpoint.entries:
            checkpoint.floats(name)
    finally:
        checkpoint.close()


@dataclass
class Found:
    plans: int = 0
    refusals: int = 0
    wrong: list[str] = field(default_factory=list)


def try_mutants(folder: Path, seeds: range) -> Found:
    sounds = [Sound.load(path) for path in sorted(folder.glob("*.gguf"))]
    found, scratch = Found(), folder / f"mutants-{seeds.start}"
    os.environ["MPSPLIT_CACHE"] = str(scratch / "cache")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST, used + MOST))
    for seed in seeds:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        path = scratch / "m.gguf"
        path.write_bytes(mutant(sounds, seed))
        model_source.find_config.cache_clear()
        try:
            with time_limit(SECONDS):
                if planned(path):
                    found.refusals += 1
                    with contextlib.suppress(MpsplitError):
                        describe(path)
                    continue
                found.plans += 1
                read(path)
        except MpsplitError as refused:
            if "\n" in str(refused):
                found.wrong.append(f"seed {seed}: {refused}")
        except (Exception, Hang) as wrong:
            place = traceback.extract_tb(wrong.__traceback__)[-1]
            found.wrong.append(f"seed {seed}: {type(wrong).__name__}: {wrong!s:.200} ({place.name}, {place.lineno})")
    shutil.rmtree(scratch, ignore_errors=True)
    return found


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:])
    print(json.dumps(asdict(try_mutants(Path(sys.argv[1]), range(first, first + count)))))
