"""`mpsplit run` of a pipeline of stages: images, texts or arrays in, answers out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.comm import mpi_rank, world
from mpsplit.errors import RunError
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.package_argument import hold_package, stages_for_ranks
from mpsplit.options.rank_options import on_ranks, take_threads
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.whole_files import told_if_not_written
from mpsplit.progress import console
from mpsplit.runtime.pipeline.output_words import answer, gives_score
from mpsplit.runtime.pipeline.pooling import cosines

WAYS = ("image", "text", "tensor")


def run_stages_command(args: argparse.Namespace) -> int:
    package = Path(args.package)
    take_threads(args)
    at_least_one(args, "top", "repeat")
    given = [way for way in WAYS if getattr(args, way)]
    if len(given) != 1:
        raise RunError(
            f"{package} holds a model in stages: give it --image FILE, --text TEXT or --tensor FILE.npz, one of them"
        )
    stages_for_ranks(args)
    pipeline = Pipeline.load(package)
    if args.query is not None and not (args.text and gives_score(pipeline)):
        raise RunError(f"--query is for a cross-encoder and --text; {package} gives {', '.join(pipeline.outputs)}")
    inputs = [] if mpi_rank() else list(_inputs(args, package, pipeline))
    if (code := on_ranks(pipeline.ranks, args)) is not None:
        return code
    from mpsplit.runtime.pipeline.load_pipeline import load_pipeline

    comm = world()
    hold_package(args)
    run = load_pipeline(package, comm)
    if comm.rank:
        run.follow()
        comm.exchange(run.seconds)
        return 0
    began = time.perf_counter()
    outputs = list(run.lead(inputs * (args.repeat or 1)))
    taken = time.perf_counter() - began
    run.end()
    seconds = [spent for of_rank in comm.exchange(run.seconds) for spent in of_rank]
    _tell(args, pipeline, outputs[: len(inputs)])
    time.sleep(0.02)  # mpirun carries the two streams side by side
    if args.report:
        _report(pipeline, seconds, len(outputs))
    count, slowest = len(outputs), max(range(len(seconds)), key=seconds.__getitem__)
    print(
        f"[{count} input{'s' * (count > 1)} through {len(seconds)} stages on {pipeline.ranks} ranks in {taken:.3f} s,"
        f" {count / taken:.2f} a second; slowest stage {pipeline.stages[slowest].name},"
        f" {seconds[slowest] / count * 1e3:.1f} ms]",
        file=sys.stderr,
    )
    return 0


def _report(pipeline: Pipeline, seconds: list[float], count: int) -> None:
    """What each stage took, and what it handed on to others."""
    from rich.table import Table

    table = Table("rank", "stage", "weights", "Mflop", "ms", "Gflop/s")
    for column in table.columns[2:]:
        column.justify = "right"
    for stage, spent in zip(pipeline.stages, seconds, strict=True):
        rate = stage.flops / 1e9 / max(spent / count, 1e-9)
        table.add_row(
            str(stage.rank), stage.name, f"{stage.bytes:,}", f"{stage.flops / 1e6:,.1f}",
            f"{spent / count * 1e3:.2f}", f"{rate:,.1f}",
        )  # fmt: skip
    console().print(table)


def _inputs(args: argparse.Namespace, package: Path, pipeline: Pipeline) -> Iterator[dict[str, np.ndarray]]:
    """In the order in which they were given; each is looked at before the ranks start."""
    from mpsplit.package.stages.growing_shapes import length_of

    shapes = {name: pipeline.values[name].shape for name in pipeline.inputs}
    for arrays in READERS[next(way for way in WAYS if getattr(args, way))](args, package, pipeline):
        length_of(shapes, {name: array.shape for name, array in arrays.items()}, pipeline.longest)
        yield arrays


def _images(args: argparse.Namespace, package: Path, pipeline: Pipeline) -> Iterator[dict[str, np.ndarray]]:
    from mpsplit.runtime.pipeline.image_files import read_image
    from mpsplit.runtime.pipeline.image_input import prepared

    if pipeline.images is None:
        raise RunError(f"--image: this model takes {', '.join(pipeline.inputs)}, no image")
    for path in args.image:
        yield {pipeline.inputs[0]: prepared(read_image(Path(path)), pipeline.images)}


def _texts(args: argparse.Namespace, package: Path, pipeline: Pipeline) -> Iterator[dict[str, np.ndarray]]:
    from mpsplit.runtime.pipeline.text_input import TextInput

    read = TextInput(package, pipeline)
    for text in args.text:
        yield read(text) if args.query is None else read(args.query, text)


def _tensors(args: argparse.Namespace, package: Path, pipeline: Pipeline) -> Iterator[dict[str, np.ndarray]]:
    """Each row of the first axis is an input of its own."""
    try:
        with np.load(args.tensor, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as wrong:
        raise RunError(f"--tensor {args.tensor} cannot be read as .npz ({wrong})") from None
    if missing := [name for name in pipeline.inputs if name not in arrays]:
        raise RunError(f"--tensor {args.tensor} has no {missing[0]}; the model takes {', '.join(pipeline.inputs)}")
    counts = {len(arrays[name]) for name in pipeline.inputs if arrays[name].ndim}
    if len(counts) != 1 or 0 in counts:
        raise RunError(f"--tensor {args.tensor}: its arrays must have equally many rows, one an input")
    for row in range(counts.pop()):
        yield {
            name: np.ascontiguousarray(arrays[name][row : row + 1], pipeline.values[name].type)
            for name in pipeline.inputs
        }


READERS = {"image": _images, "text": _texts, "tensor": _tensors}


def _tell(args: argparse.Namespace, pipeline: Pipeline, outputs: list[dict[str, np.ndarray]]) -> None:
    if args.out:
        together = {name: np.concatenate([given[name] for given in outputs]) for name in pipeline.outputs}
        with told_if_not_written("--out", args.out), open(args.out, "wb") as file:
            np.savez(file, **together)  # type: ignore[arg-type]
        return
    answers = [answer(given, pipeline, args.top or 1) for given in outputs]
    if args.text and "next" in answers[0]:
        from mpsplit.runtime.pipeline.text_input import TextInput

        text = TextInput(Path(args.package), pipeline)
        for said in answers:
            said["next"] = [label | {"label": text.word(label["number"])} for label in said["next"]]
    if len(answers) > 1 and "embedding" in answers[0]:
        found = cosines(np.array([said["embedding"] for said in answers]))
        answers = [said | {"cosines": row} for said, row in zip(answers, found.tolist(), strict=True)]
    if args.json:
        print(json.dumps(answers if len(answers) > 1 else answers[0], ensure_ascii=False))
        return
    names = args.image or args.text or [f"row {i}" for i in range(len(answers))]
    for name, said in zip(names, answers, strict=True):
        print(f"{name}: {_in_words(said)}", flush=True)


def _in_words(said: dict[str, Any]) -> str:
    if labels := said.get("labels") or said.get("next"):
        words = ", ".join(f"{label['label']} {label['score']:.1%}" for label in labels)
        return f"next {words}" if "next" in said else words
    if "score" in said:
        return f"{said['score']:.4f}"
    if "embedding" in said:
        numbers = said["embedding"]
        first = ", ".join(f"{number:.4f}" for number in numbers[:4])
        beside = f"; cosines {', '.join(f'{cosine:.4f}' for cosine in said['cosines'])}" if "cosines" in said else ""
        return f"embedding of {len(numbers)}: {first} ... (--json gives all){beside}"
    return "; ".join(f"{name} {about['shape']}: {about['first']} ..." for name, about in said["outputs"].items())
