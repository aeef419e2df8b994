"""parts.json: what a rank of a decoder computes by IREE, step by step.

In: a rank's folder. Out: RankParts.

A step runs a part, which is a program with its weights, or talks to other ranks. Values have names;
keys and values of an attention go into its part behind what it takes, and come out behind what it
gives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpsplit.errors import PackageError
from mpsplit.package.collectives import Call
from mpsplit.package.json_fields import many, record, text, whole
from mpsplit.package.manifest_fields import call_fields
from mpsplit.package.stages.built import BUILT, IREE, Built
from mpsplit.package.stages.stage_files import SUFFIXES
from mpsplit.package.whole_files import read_json, write_json

PARTS = "parts.json"
GRAPH, WEIGHTS, CODE = SUFFIXES[IREE]
TOKENS, HIDDEN, LOGITS = "tokens", "hidden", "logits"  # values by these names are the engine's
REMEDY = "convert again with --compiler iree"


@dataclass(frozen=True)
class Step:
    """`program` and `weights` are names of files without their endings; of a `call` both are
    empty. `attentions`: numbers among those of the rank."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    program: str = ""
    weights: str = ""
    attentions: tuple[int, ...] = ()
    call: Call | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "call": self.call.to_json() if self.call else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Step:
        lists = {name: tuple(data[name]) for name in ("takes", "gives", "attentions")}
        call = Call.from_json(data["call"]) if data["call"] else None
        return cls(**lists, program=data["program"], weights=data["weights"], call=call)


@dataclass(frozen=True)
class RankParts:
    built: Built
    steps: tuple[Step, ...]

    @property
    def attentions(self) -> int:
        return sum(len(step.attentions) for step in self.steps)

    def names(self) -> Iterator[str]:
        """Of the files, each once."""
        yield from dict.fromkeys(step.program + end for step in self.steps if step.program for end in (GRAPH, CODE))
        yield from (step.weights + WEIGHTS for step in self.steps if step.weights)

    def save(self, folder: Path) -> None:
        write_json(folder / PARTS, {"built": self.built.to_json(), "steps": [step.to_json() for step in self.steps]})

    @classmethod
    def load(cls, folder: Path) -> RankParts:
        data = read_json(folder / PARTS, REMEDY)
        try:
            FIELDS(data, "it")
            parts = cls(Built.from_json(data["built"]), tuple(map(Step.from_json, data["steps"])))
            parts._check()
        except PackageError as wrong:
            raise PackageError(f"{folder / PARTS} is damaged ({wrong}); {REMEDY}") from None
        return parts

    def _check(self) -> None:
        """Every value is there before it is taken, and every attention is some part's."""
        known = {TOKENS, HIDDEN, "cos", "sin", "mask"}
        for i, step in enumerate(self.steps):
            if step.call and (len(step.takes), len(step.gives)) != (1, 1) or bool(step.call) == bool(step.program):
                raise PackageError(f"step {i} is neither a part nor a collective")
            if missing := set(step.takes) - known:
                raise PackageError(f"step {i} takes {min(missing)}, which nothing gives before")
            known |= set(step.gives)
        if [number for step in self.steps for number in step.attentions] != list(range(self.attentions)):
            raise PackageError("its attentions are not counted from 0 on")


def forget_parts(folder: Path, listed: Collection[str] = ()) -> None:
    """Of an earlier conversion, in a rank's folder; those that are listed stay."""
    for path in folder.iterdir():
        if path.name not in listed and (path.name == PARTS or path.suffix in (GRAPH, CODE, WEIGHTS)):
            path.unlink()


def _call_or_none(value: Any, where: str) -> None:
    if value is not None:
        call_fields(value, where)


MOST = 1 << 16
NAME, STEM = text(r"\w{1,200}", "a name"), text(r"(part-\d{2,5})?", "the name of a part")
STEP = record(
    {
        "takes": many(NAME, MOST),
        "gives": many(NAME, MOST),
        "program": STEM,
        "weights": STEM,
        "attentions": many(whole(0, MOST), MOST),
        "call": _call_or_none,
    }
)
FIELDS = record({"built": BUILT, "steps": many(STEP, MOST)})
