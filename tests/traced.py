"""What dynamo made is kept while the process lives: many tests partition the same model by the same
plan, and each trace takes seconds.

The key is all that a trace is made of: the config, the plan, the rank, the example inputs. Weights
are not part of it; a trace has stand-ins for them.
"""

from __future__ import annotations

import functools
import json


@functools.cache
def trace_once() -> None:
    _of_decoders()
    _of_stages()


def _of_decoders() -> None:
    from mpsplit.export import partition

    slice_model, capture, known = partition.slice_model, partition.capture, {}

    def sliced(model, plan, rank, *rest):
        stage = slice_model(model, plan, rank, *rest)
        config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
        stage.made_of = json.dumps([config, plan.to_json(), rank], sort_keys=True, default=str)
        return stage

    def captured(stage, example, *how, **more):
        key = stage.made_of, example, *how, *more.items()
        if key not in known:
            known[key] = capture(stage, example, *how, **more)
        return known[key]

    partition.slice_model, partition.capture = sliced, captured


def _of_stages() -> None:
    from mpsplit.export.model.model_source import read_config
    from mpsplit.export.stages import stage_cuts

    build, capture = stage_cuts.build, stage_cuts.capture
    known = {}  # (subject, its capture) by what the subject is made of; subjects stay, so their ids do

    def built(folder, length=None):
        key = str(folder), json.dumps(read_config(folder), sort_keys=True), length
        if key not in known:
            subject = build(folder, length)
            known[key] = subject, capture(subject)
        return known[key][0]

    def captured(subject):
        return next(graph for made, graph in known.values() if made is subject)

    stage_cuts.build, stage_cuts.capture = built, captured
