"""What the graph is traced with: inputs by name and their shapes.

In: ModelFacts. Out: two Examples of different length. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.plan.model_facts import ModelFacts

# name -> the axes that grow with the length
INPUTS = {"hidden": (1,), "cos": (1,), "sin": (1,), "mask": (0, 1)}


@dataclass(frozen=True)
class Example:
    """Inputs to trace with. `length` is a number that no size of the model equals, so that it
    cannot hide in a constant."""

    length: int
    hidden: int
    head_dim: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        n = self.length
        return {
            "hidden": (1, n, self.hidden),
            "cos": (1, n, self.head_dim),
            "sin": (1, n, self.head_dim),
            "mask": (n, n),
        }


def examples(facts: ModelFacts) -> list[Example]:
    """Two, for pnnx must see that the length changes."""
    taken = set(facts.to_json().values())
    lengths = [n for n in (53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103) if n not in taken]
    return [Example(length, facts.hidden, facts.head_dim) for length in lengths[:2]]
