"""How far a stored weight may be off the checkpoint's.

In: nothing. Out: a bound for each way of storing. Invariant: it follows from the steps of the kind
and the method, not from a measured package.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """`most`: what a weight may be off, in `unit`."""

    most: float
    unit: str
    why: str


# The worst of a sound package is 0.47 of a step; the least damage that counts, the highest bit of
# one weight of 4 bits among 32, is 1.4 steps.
BOUNDS = {
    "exact": Bound(0.0, "of the largest weight", "what is not rounded is stored as it is"),
    "kept": Bound(0.0, "of the largest weight", "blocks of a GGUF file stay as they are"),
    "bf16": Bound(1.0, "of half its last place", "the nearest number of 8 bits and an exponent is at most so far"),
    "rounded": Bound(0.5, "steps (rms of a block)", "no rounding to the nearest step can be worse"),
    "gptq": Bound(1.0, "steps (rms of a matrix)", "columns make up for each other, and move by themselves"),
}
