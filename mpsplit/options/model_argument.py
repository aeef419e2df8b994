"""MODEL: a model as others made it, before there is a package.

In: what the user calls it. Out: its sizes.
"""

from __future__ import annotations

import argparse

from mpsplit.plan.model_facts import ModelFacts


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face directory, a .gguf file, or a hub id")


def facts_of(model: str) -> ModelFacts:
    """Of a name of SHAPES, or of a model's config.json."""
    from mpsplit.export.model.model_source import find_config, read_config
    from mpsplit.export.model.named_shapes import SHAPES

    if model not in SHAPES:
        return ModelFacts.from_config(read_config(find_config(model)))
    return SHAPES[model].facts
