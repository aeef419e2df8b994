"""--stages, --length and --shards: a model as a pipeline of stages.

In: arguments. Out: whether a model goes that way, and how it is cut.

A decoder that families/ knows is split by its plan, unless --stages asks otherwise; every other
model goes in stages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from mpsplit.errors import PlanError
from mpsplit.options.number_checks import at_least_one
from mpsplit.plan.model_facts import is_decoder
from mpsplit.plan.stages.index_lists import wishes_of


def add_stages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stages",
        metavar="N|MODULES",
        help="cut the model's graph into N stages of equal work, or before these modules (default: decoders as"
        " --tensor and --pipeline say, others into 8)",
    )
    parser.add_argument(
        "--length", type=int, metavar="N", help="of stages: all texts have N tokens (default: as many as they have)"
    )
    parser.add_argument(
        "--shards",
        metavar="PATTERN=rows:N|FILE.json",
        action="append",
        default=[],
        help="of stages: N ranks each compute some rows (or columns:N) of the linears and 1x1 convolutions whose path"
        " fits, or those that a file lists; may be given several times",
    )


def goes_in_stages(args: argparse.Namespace) -> bool:
    """Whether MODEL becomes a pipeline of stages."""
    from mpsplit.export.model.model_source import find_config, read_config
    from mpsplit.export.model.named_shapes import SHAPES

    at_least_one(args, "length")
    asked = args.stages is not None
    if args.model in SHAPES:
        if asked:
            raise PlanError(f"--stages {args.stages}: {args.model} is a shape without a graph; name a model")
        return False
    known = is_decoder(read_config(find_config(args.model)))
    for option, given in (("--length", args.length), ("--shards", args.shards and args.shards[0])):
        if given and not asked and known:
            raise PlanError(f"{option} {given} is for a model in stages; add --stages N")
    return asked or not known


def first_given(args: argparse.Namespace, options: Iterable[str]) -> str:
    """Of options of the other way, the first that was given, as --option; empty where none was."""
    return next((f"--{name.replace('_', '-')}" for name in options if getattr(args, name)), "")


def cut_of(args: argparse.Namespace, folder: Path):
    """The model, captured, cut and closed."""
    from mpsplit.export.stages.stage_cuts import cut_model

    return cut_model(folder, args.stages, args.length, wishes_of(args.shards))
