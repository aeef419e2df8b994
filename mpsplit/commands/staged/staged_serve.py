"""`mpsplit serve` of a model in stages: embeddings of an encoder, scores of a cross-encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpsplit.comm import world
from mpsplit.errors import RunError
from mpsplit.options.package_argument import hold_package, stages_for_ranks
from mpsplit.options.stage_options import first_given
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.talk.answer_settings import SETTINGS

# options of decoders that are nothing without being given
DECODERS = ("engine", "config", "share_prefixes", "context", "cache", *SETTINGS)


def ranks_of_stages(args: argparse.Namespace) -> int:
    """How many, when such a model can be served."""
    from mpsplit.runtime.pipeline.text_model import TextModel

    if wrong := first_given(args, DECODERS):
        raise RunError(f"{wrong} is for decoders, {args.package} holds stages; leave it out")
    stages_for_ranks(args)
    pipeline = Pipeline.load(Path(args.package))
    TextModel(Path(args.package), pipeline)  # refuses before the ranks are started
    return pipeline.ranks


def follow_stages(args: argparse.Namespace) -> None:
    from mpsplit.runtime.pipeline.bursts import Bursts

    Bursts(_loaded(args)).follow()


def text_service(args: argparse.Namespace, model: str, **given: Any) -> tuple[Any, str]:
    """The service on rank 0, and what is said of it; `given`: fields of every service."""
    from mpsplit.runtime.pipeline.stage_loop import StageLoop
    from mpsplit.runtime.pipeline.text_model import TextModel
    from mpsplit.serve.service.text_service import TextService

    run = _loaded(args)
    texts = TextModel(Path(args.package), run.pipeline)
    service = TextService(StageLoop(run, args.max_concurrent, args.max_waiting), model, texts, **given)
    what = f"embeddings of {texts.size} numbers" if texts.size else "scores of texts for a query"
    return service, f"{what}, of up to {texts.longest} tokens"


def _loaded(args: argparse.Namespace):
    from mpsplit.runtime.pipeline.load_pipeline import load_pipeline

    hold_package(args)
    return load_pipeline(Path(args.package), world())
