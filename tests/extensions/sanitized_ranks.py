"""Ranks without Python that were built with a sanitizer, under all that a loop can ask of them.

In: a folder for packages, the program, the number of threads, layouts. Out: an error where they
answer otherwise than ranks with Python, or say anything. launch/test-sanitizers calls it.

    python -m tests.extensions.sanitized_ranks FOLDER MPSPLIT_RANK THREADS 2x1 1x2 ...

The engine, its layers, the kernels, what ranks answer, and gloo with shared memory: all of it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone, world
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.loop.loop_protocol import Request
from tests.running import rank_environment

PROMPT = tuple((7 * i * i + 3 * i) % 131 for i in range(70))
FOLDER = "sessions/anyone/mine"
SAMPLINGS = [
    Sampling(),
    Sampling(1.0, 5, 0.9, 1.2, seed=1),
    Sampling(2.0, seed=2),
    Sampling(5.0, top_p=0.9, seed=4),
    Sampling(2.0, logit_bias=((3, 4.0), (100, 9.0)), presence_penalty=-1.0, seed=6),
]


class Odd:
    def allowed(self):
        return bits_of(np.arange(131) % 2 == 1)

    def accept(self, token): ...


def answers(package: Path, comm) -> list[tuple[int, ...]]:
    """Rank 0: of requests alone and together, with what is kept of one of them."""
    from mpsplit.runtime.engine.pages import Pages
    from mpsplit.runtime.kept.session_counts import KeptLimits
    from mpsplit.runtime.load import load_loop
    from tests.loops import finished

    loop = load_loop(package, comm, chunk=32)
    asked = [Request(PROMPT[: 5 + 9 * i], 8, sampling, ignore_eos=True) for i, sampling in enumerate(SAMPLINGS)]
    found = finished(loop, asked)
    found += finished(loop, [Request(PROMPT[:9], 8, SAMPLINGS[1], (), True, 5, Odd), asked[0]])
    loop.on_disk.keep_within(KeptLimits())
    found.append(loop.generate(Request(PROMPT, 4, ignore_eos=True, saves=FOLDER)))
    loop.on_disk.settle()
    loop.pages = Pages(loop.pages.count)  # nothing is in memory any more
    found.append(loop.generate(Request(PROMPT, 4, ignore_eos=True, warm=FOLDER, saves=FOLDER)))
    loop.on_disk.settle()
    assert found[-1].kept["hit"] > 64, found[-1].kept
    loop.end()
    return [each.token_ids for each in found]


def made(folder: Path, tensor: int, pipeline: int) -> Path:
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.package.stored.quantisation import Quantisation
    from mpsplit.package.stored.recipe import Recipe
    from tests.models import make_model
    from tests.packages import partition_evenly

    if not (folder / "model").exists():
        make_model("llama", folder / "model")
    package = folder / f"{tensor}x{pipeline}"
    if package.exists():
        return package
    partition_evenly(folder / "model", package, tensor, pipeline)
    convert(package, Alone(), find_pnnx(), Recipe(Quantisation.named("q8", 32)))
    return package


def run(program: str, threads: str, package: Path, ranks: int, meeting: Path) -> list:
    """What rank 0 answers, with the program as the others, or with Python."""
    lead = [sys.executable, "-m", "tests.extensions.sanitized_ranks", "lead", package]
    other = [program, package, "--threads", threads] if program else lead
    started = [
        subprocess.Popen(
            lead if rank == 0 else other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=rank_environment(RANK=str(rank), WORLD_SIZE=str(ranks), MPSPLIT_STORE=str(meeting)),
        )
        for rank in range(ranks)
    ]  # fmt: skip
    told = [rank.communicate(timeout=240) for rank in started]
    bad = [error for rank, (_, error) in zip(started, told, strict=True) if rank.returncode or error]
    assert not bad, "\n".join(bad)
    return json.loads(told[0][0])


def compare(folder: Path, program: str, threads: str, layouts: list[str]) -> None:
    for layout in layouts:
        tensor, pipeline = map(int, layout.split("x"))
        package = made(folder, tensor, pipeline)
        with tempfile.TemporaryDirectory() as meeting:
            with_python, without = (
                run(each, threads, package, tensor * pipeline, Path(meeting) / str(number))
                for number, each in enumerate(("", program))
            )
        assert without == with_python, (layout, without, with_python)
        print(f"right: {layout} over gloo+shm, {threads} threads, {len(without)} answers")


def lead(package: Path) -> None:
    comm = world()
    if comm.rank == 0:
        print(json.dumps(answers(package, comm)))
    else:
        from mpsplit.runtime.load import load_loop

        load_loop(package, comm).follow()


if __name__ == "__main__":
    if sys.argv[1] == "lead":
        lead(Path(sys.argv[2]))
    else:
        compare(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
