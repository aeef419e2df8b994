"""structure.json: what convert must know of a rank's trace besides its graph.

In: a Stage's weights by name. Out: their shapes: `shapes` of the slices that the rank owns, `small`
of the miniature that was traced (miniature.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.whole_files import read_json, write_json

STRUCTURE = "structure.json"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Structure:
    shapes: Shapes
    small: Shapes

    def save(self, folder: Path) -> None:
        write_json(
            folder / STRUCTURE, {key: {n: list(s) for n, s in shapes.items()} for key, shapes in vars(self).items()}
        )

    @classmethod
    def load(cls, folder: Path) -> Structure:
        data = read_json(folder / STRUCTURE, "run `mpsplit partition` again")
        try:
            return cls(*({n: tuple(s) for n, s in data[key].items()} for key in ("shapes", "small")))
        except (KeyError, TypeError, AttributeError) as wrong:
            raise PackageError(f"{folder / STRUCTURE} is damaged ({wrong}); run `mpsplit partition` again") from None
