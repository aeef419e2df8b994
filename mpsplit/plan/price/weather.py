"""The weather that a plan is simulated in: what takes longer than it should.

In: deviations, stragglers, a seed. Out: factors of seconds.

Invariant: a deviation does not change the mean, and the same seed gives the same factors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mpsplit.errors import ClusterError


@dataclass(frozen=True)
class Weather:
    """Deviation of every message and every half layer, as a part of its seconds.

    `stragglers`: how many times slower some ranks compute.
    """

    links: float = 0.0
    compute: float = 0.0
    stragglers: dict[int, float] = field(default_factory=dict)
    seed: int = 0

    def check(self, ranks: int) -> Weather:
        for name, value in (("links", self.links), ("compute", self.compute)):
            if not 0 <= value < math.inf:
                raise ClusterError(f"jitter {value:g} of {name} is out of range; give 0 or more, such as 0.2")
        for rank, factor in self.stragglers.items():
            if not 0 <= rank < ranks:
                raise ClusterError(f"straggler {rank} is none of the {ranks} ranks; give one from 0 to {ranks - 1}")
            if not 0 < factor < math.inf:
                raise ClusterError(f"straggler {rank} is {factor:g} times slower; give more than 0, such as {rank}=2.0")
        return self


CALM = Weather()


def jitter_of(chance: random.Random, deviation: float) -> Callable[[], float] | None:
    """Draws log-normal factors of mean 1, or nothing where there is no deviation."""
    if not deviation:
        return None
    variance = math.log1p(deviation**2)
    middle, width = -variance / 2, math.sqrt(variance)
    return lambda: math.exp(chance.gauss(middle, width))
