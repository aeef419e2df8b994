"""MODEL: a model as others made it, before there is a package.

In: what the user calls it. Out: its sizes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.steps import BLOCK


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face directory, a .gguf file, or a hub id")


def facts_of(model: str) -> ModelFacts:
    """Of a name of SHAPES, or of a model's config.json."""
    from mpsplit.export.model.model_source import find_config, read_config
    from mpsplit.export.model.named_shapes import SHAPES

    if model not in SHAPES:
        return ModelFacts.from_config(read_config(find_config(model)))
    return SHAPES[model].facts


def own_kinds(folder: Path) -> dict[str, Quantisation]:
    """Of the linears of a model's GGUF file, where its blocks are kept; nothing of other models."""
    from mpsplit.export.model.gguf.gguf_blocks import kept_kinds
    from mpsplit.export.model.gguf.gguf_folder import weights_of

    path = weights_of(folder)
    return kept_kinds(path) if path else {}


def with_own_blocks(job: Job, facts: ModelFacts, kinds: dict[str, Quantisation]) -> Job:
    """The same job, for linears of these kinds; as it is where there are none."""
    if not kinds:
        return job
    of_roles = Counter((_role(name, facts), how.kind) for name, how in kinds.items())
    roles = Counter(role for role, _ in of_roles.elements())
    own = tuple((role, kind, n / roles[role]) for (role, kind), n in of_roles.items())
    kind = Counter(how.kind for how in kinds.values()).most_common(1)[0][0]
    return replace(job, kind=kind, block=BLOCK, own=own)


def _role(weight: str, facts: ModelFacts) -> str:
    role = facts.family.role_of(weight)
    assert role, f"{weight} is a linear"
    return role.name
