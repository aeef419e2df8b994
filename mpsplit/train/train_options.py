"""What may stand in torch.compile(..., options={...}).

In: a dict. Out: `TrainOptions`. Invariant: an unknown name or value is refused in one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch._dynamo.exc import ShortenTraceback

from mpsplit.errors import MpsplitError


class TrainError(MpsplitError, ShortenTraceback):
    """A model cannot be compiled like this. Dynamo hands such an error on as it is, unwrapped."""

    def __init__(self, message: str) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)
        self.message = message

    def __str__(self) -> str:
        return self.message  # dynamo adds advice for its own developers to args


CONST_NAME = "const_name"


@dataclass(frozen=True)
class TrainOptions:
    """`strict`: an operator that the target does not take is an error. `artefacts`: a folder for
    graphs and weights; with `debug` "const_name" no hash is in the files' names. `compare`: each
    operator beside torch in float64."""

    target: str = "inductor"
    strict: bool = False
    artefacts: str = ""
    debug: str = ""
    compare: bool = False


def read_options(given: Mapping[str, Any], targets: list[str]) -> TrainOptions:
    known = [field.name for field in fields(TrainOptions)]
    for name in given:
        if name not in known:
            raise TrainError(f"option {name!r} is unknown; there are {', '.join(known)}")
    options = TrainOptions(**given)
    if options.target not in targets:
        raise TrainError(f"target {options.target!r} does not exist; there are {', '.join(targets)}")
    for name in ("strict", "compare"):
        if not isinstance(value := getattr(options, name), bool):
            raise TrainError(f"option {name!r} is {value!r}; it is True or False")
    if not isinstance(options.artefacts, str | os.PathLike):
        raise TrainError(f"option 'artefacts' is {options.artefacts!r}; it is a folder")
    if options.debug not in ("", CONST_NAME):
        raise TrainError(f"option 'debug' is {options.debug!r}; there is {CONST_NAME!r}")
    if options.compare and not options.artefacts:
        raise TrainError("option 'compare' writes arrays; say where to: option 'artefacts'")
    return options
