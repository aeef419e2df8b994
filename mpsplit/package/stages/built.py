"""What made a stage's files, and for which processor.

In: a stage's entry of stages.json. Out: Built; refuses a processor that lacks what the code uses.

Invariant: files that are data run everywhere; files that are machine code name all they need.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mpsplit.errors import RunError
from mpsplit.native import cpp
from mpsplit.package.json_fields import many, one_of, record, text

NCNN, IREE = "ncnn", "iree"
COMPILERS = (NCNN, IREE)
OTHER_NAMES = {"bmi": "bmi1", "lzcnt": "abm", "pclmul": "pclmulqdq", "sha": "sha_ni", "neon": "asimd"}  # LLVM -> Linux


@dataclass(frozen=True)
class Built:
    """`machine` and `features`: of the processor, as Linux calls them; none of files that are
    data."""

    compiler: str = NCNN
    machine: str = ""
    features: tuple[str, ...] = ()

    @classmethod
    def here(cls, compiler: str, used: Iterable[str]) -> Built:
        """For this processor. `used`: LLVM's names of features, of which Linux tells most."""
        names = {OTHER_NAMES.get(name, name.replace(".", "_")) for name in used}
        return cls(compiler, platform.machine(), tuple(sorted(names & _features_here())))

    def check(self, what: str) -> None:
        if self.machine not in ("", platform.machine()):
            lacks = f"{self.machine}, this machine is {platform.machine()}"
        elif missing := [name for name in self.features if name not in _features_here()]:
            lacks = f"a processor with {', '.join(missing)}, which this one lacks"
        else:
            return
        raise RunError(
            f"{what} was compiled for {lacks}; convert where it runs: `mpsplit convert PACKAGE --compiler"
            f" {self.compiler}`"
        )

    def to_json(self) -> dict[str, Any]:
        return {"compiler": self.compiler, "machine": self.machine, "features": list(self.features)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Built:
        return cls(data["compiler"], data["machine"], tuple(data["features"]))


def _features_here() -> set[str]:
    return set(cpp.processor().partition(":")[2].split())


WORD = text(r"[\w.-]{0,64}", "a word")
BUILT = record({"compiler": one_of(COMPILERS), "machine": WORD, "features": many(WORD, 4096)})
