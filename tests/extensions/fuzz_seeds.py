"""What extensions/fuzz begins with: inputs that mpsplit itself has written.

In: a folder. Out: in it a package of one rank, and for each target a folder of inputs.

    python -m tests.extensions.fuzz_seeds FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.choose.answers import ALL, BLOCKS, BY_MASK, BY_TILT, CELL, CELLS, SPAN, WIDE, bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.choose.tilt import Tilt
from mpsplit.runtime.engine.engine_protocol import KeptSegment, Span
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.order_numbers import Question
from tests.loops import TableEngine
from tests.models import facts, make_model
from tests.packages import small_manifest

TARGETS = ("rank_text", "param", "kept", "orders")
SAVE = "0123456789abcdef" * 2
FILES = WeightFiles("weights/floats.bin", "weights/embedding.bin", ((0, "weights/a.bin"), (2 << 20, "weights/b.bin")))


class Keeps(TableEngine):
    """Takes orders that keep, and does nothing."""

    def save(self, slot, segment, folder): ...

    def saved(self):
        return 0, 0

    def load(self, slot, segment, folder):
        return 0

    def sweep(self, folder, saves): ...


class Written(Alone):
    """What rank 0 tells the other one, one message after another."""

    size = 2

    def __init__(self):
        self.bytes = b""

    def broadcast(self, x, root):
        self.bytes += np.ascontiguousarray(x).tobytes()

    def tell(self, x):
        self.broadcast(x, 0)

    def all_gather(self, x):
        return np.concatenate([x, x])


def orders() -> dict[str, bytes]:
    """By what they are about; each begins anew."""
    biased = Sampling(repetition_penalty=1.3, logit_bias=((3, 4.0), (100, -9.0)))
    segment = KeptSegment(0, 40, 40, "a" * 128 + SAVE)

    def steps(ranks):
        ranks.step([5, 6, 7], [Question(Span(0, 0, 3), 4, temperature=0.8)])
        ranks.step([8], [Question(Span(0, 3, 1), 1)])
        ranks.step([9], [Question(Span(0, 4, 1))])

    def batches(ranks):
        ranks.place(1, 0, [4])
        parts = [Span(0, 0, 3), Span(1, 0, 2)]
        ranks.step([5, 6, 7, 8, 9], [Question(part, BLOCKS, 3, 0, 0.7) for part in parts])
        ranks.step([1, 2], [Question(Span(0, 3, 1), ALL), Question(Span(1, 2, 1), 5, 5)])
        ranks.step([3], [Question(Span(0, 4, 1), WIDE - 20, temperature=0.7)])

    def more(ranks):
        ranks.step([5, 6, 7], [Question(Span(0, 0, 3), 4, 2, 0, 1.0)])
        ranks.more(0, CELLS, 40, 100, 1.0)
        ranks.more(0, CELL, 40, 7, 1.0, [3])
        ranks.more(0, SPAN, 10, 30)
        ranks.more(0, ALL)

    def changes(ranks):
        ranks.tilt(0, True, Tilt(biased).changes([5, 6, 7]))
        ranks.mask(0, bits_of(np.arange(131) % 3 == 0))
        ranks.step([5, 6, 7], [Question(Span(0, 0, 3), 4, 4, BY_TILT | BY_MASK, 0.5)])
        tilt = Tilt(biased)
        tilt.changes([5, 6, 7])
        tilt.fresh = False
        ranks.tilt(0, False, tilt.changes([5, 6, 7, 8]))
        ranks.step([8], [Question(Span(0, 3, 1), BLOCKS, 0, BY_TILT, 0.5)])

    def keeping(ranks):
        ranks.step(list(range(40)), [Question(Span(0, 0, 40), 1)])
        ranks.save(0, segment, "sessions/anyone/mine")
        for _ in range(3):
            ranks.saved()
        ranks.load(0, segment, "sessions/anyone/mine")
        ranks.sweep("sessions/anyone/mine", [SAVE])
        ranks.sweep("prefixes/x", [])
        ranks.forget([2, 4, 5])

    found = {}
    for about in (steps, batches, more, changes, keeping):
        for stored in ("f32", "q8"):
            told = Written()
            ranks = Ranks(Keeps(), told)
            ranks.reserve(6, stored)
            ranks.place(0, 0, [3, 1])
            about(ranks)
            ranks.report()
            ranks.end()
            assert told.bytes
            found[f"{about.__name__}-{stored}"] = told.bytes
    return found


def rank_texts() -> dict[str, bytes]:
    """Of ranks that share a stage, and of one that has no embedding."""
    manifest = replace(small_manifest(), plan=even_plan(facts(), 2, 2))
    return {f"{rank}-of-4": rank_text(manifest, rank, FILES).encode() for rank in (1, 2)}


def package(folder: Path) -> Path:
    """Of a small random model with its matrices in 4 bits."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.package.stored.quantisation import Quantisation
    from mpsplit.package.stored.recipe import Recipe
    from tests.packages import partition_evenly

    partition_evenly(make_model("llama", folder / "model"), folder / "package", 1, 1)
    convert(folder / "package", Alone(), find_pnnx(), Recipe(Quantisation.named("q4", 32)))
    return folder / "package"


def write(folder: Path) -> None:
    rank = package(folder) / "rank-0"
    for target in TARGETS:
        (folder / target).mkdir()
    inputs = {"rank_text/rank.txt": (rank / "rank.txt").read_bytes()}
    inputs["param/fused.param"] = (rank / "fused.param").read_bytes()
    inputs |= {f"rank_text/{name}": data for name, data in rank_texts().items()}
    inputs |= {f"orders/{name}": data for name, data in orders().items()}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
