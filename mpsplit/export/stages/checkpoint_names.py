"""Which tensor of a checkpoint a weight of the module is.

In: a module of transformers, the names in a checkpoint. Out: the tensor of each weight.

Invariant: transformers' own rules decide, as when it loads the checkpoint itself. Weights that are
made of several tensors are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from mpsplit.errors import ModelError


def tensors_of(module: nn.Module, names: Collection[str]) -> dict[str, str]:
    """By the weight's name in the module; only of those that the checkpoint has."""
    own = module.state_dict()
    renamings, converters = _rules(module)
    prefix = getattr(module, "base_model_prefix", None) or None
    found: dict[str, str] = {}
    for name in names:
        target, converted = _renamed(name, renamings, converters, prefix, own)
        if converted is not None and target in own:
            raise ModelError(
                f"transformers makes {target} out of several tensors of this checkpoint, such as {name}; save the model"
                " again with this transformers"
            )
        if target in own:
            found[target] = name
    for name, same in _tied(module).items():
        if name not in found and same in found:
            found[name] = found[same]
    return found


def _rules(module: nn.Module) -> tuple[list[Any], list[Any]]:
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    if not isinstance(module, PreTrainedModel):
        return [], []
    rules = get_model_conversion_mapping(module)
    return (
        [rule for rule in rules if isinstance(rule, WeightRenaming)],
        [rule for rule in rules if isinstance(rule, WeightConverter)],
    )


def _renamed(name: str, renamings: list, converters: list, prefix: str | None, own: dict) -> tuple[str, str | None]:
    from transformers.core_model_loading import rename_source_key

    target, converted = rename_source_key(name, renamings, converters, prefix, own)
    return str(target), converted


def _tied(module: nn.Module) -> dict[str, str]:
    """Names of one parameter -> another one of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {a: b for same in names.values() for a in same for b in same if a != b}
