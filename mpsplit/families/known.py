"""All families, by the architecture that config.json names.

In: the files of this room. Out: FAMILIES. Invariant: a file of this room that holds a Family is
known; nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.families.family import Family


def _found() -> dict[str, Family]:
    room = __name__.rpartition(".")[0]
    others = [file.name for file in pkgutil.iter_modules([str(Path(__file__).parent)])]
    families: dict[str, Family] = {}
    for name in sorted(others):
        if f"{room}.{name}" == __name__:
            continue
        for value in vars(importlib.import_module(f"{room}.{name}")).values():
            if isinstance(value, Family):
                families |= dict.fromkeys(value.architectures, value)
    return families


FAMILIES = _found()


def family_of(config: dict[str, Any]) -> tuple[str, Family]:
    """The architecture and its family, or what is supported instead."""
    architecture = (config.get("architectures") or ["none named"])[0]
    if architecture not in FAMILIES:
        supported = ", ".join(f"{name} ({family.people})" for name, family in FAMILIES.items())
        raise ModelError(f"architecture {architecture} is not supported; supported are {supported}")
    return architecture, FAMILIES[architecture]
