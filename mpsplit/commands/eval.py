"""`mpsplit eval`: how often a package is right, by tasks of people's own.

In: a package, a file of tasks. Out: a table, or JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpsplit.comm import world
from mpsplit.options.loop_options import add_engine
from mpsplit.options.package_argument import add_keys, add_package, hold_package, keys_of, package_for_ranks
from mpsplit.options.rank_options import add_ranks, on_ranks

if TYPE_CHECKING:
    from mpsplit.check.evaluation import Score

SHIPPED = Path(__file__).parents[1] / "check" / "tasks.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_ranks(parser)
    add_engine(parser)
    add = parser.add_argument
    add(
        "--tasks",
        metavar="FILE",
        help="questions with choices, or texts, as JSON (default: some that ship with mpsplit)",
    )
    add_keys(parser)
    add("--json", action="store_true", help="print one JSON object")


def eval_command(args: argparse.Namespace) -> int:
    from mpsplit.check.tasks import read_tasks

    manifest = package_for_ranks(args)
    tasks = read_tasks(Path(args.tasks or SHIPPED))
    if (code := on_ranks(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.check.evaluation import evaluate
    from mpsplit.runtime.load import load_loop, load_package_text

    comm = world()
    hold_package(args)
    keys = keys_of(args)
    text = load_package_text(Path(args.package), manifest, keys)
    scores = evaluate(load_loop(Path(args.package), comm, engine=args.engine, keys=keys).engine, comm, tasks, text)
    if comm.rank == 0:
        if args.json:
            print(json.dumps({"tasks": [score.to_json() for score in scores]}))
        else:
            show(scores)
    return 0


def show(scores: Sequence[Score]) -> None:
    for score in scores:
        if score.questions:
            share, by_letter = score.right / score.questions, score.right_by_letter / score.questions
            print(
                f"{score.name}: {share:.1%} of {score.questions} right (+- {score.error:.1%}),"
                f" {by_letter:.1%} by letter, {score.by_guess:.1%} by guess"
            )
        else:
            print(
                f"{score.name}: perplexity {score.perplexity:.4g} over {score.tokens:,} tokens,"
                f" {score.bits_a_byte:.4g} bits a byte"
            )
