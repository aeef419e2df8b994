"""How a token is to be chosen.

In: settings by name. Out: Sampling, checked, which also says how many candidates of each rank it
takes (candidates.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.errors import RunError
from mpsplit.runtime.choose.candidates import ALL

NUCLEUS = 256  # candidates a rank sends where nothing says how many will do: nearly always enough
MANY = 1 << 31  # more than any model has tokens
COLDEST = 1e-5  # below it nothing but the likeliest token is left, and quotients overflow


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off, and each of them leaves
    `min_keep` tokens at least.

    Penalties look back over `penalty_window` tokens of prompt and answer, 0 for all: repetition
    divides the logit of a token that occurs (CTRL's rule), presence and frequency lower it once and
    for each time (OpenAI's rule).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    penalty_window: int = 0
    seed: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_keep: int = 1

    def check(self) -> Sampling:
        for name, fine, allowed in (
            ("temperature", 0 <= self.temperature <= 100, "from 0 (greedy) to 100"),
            ("top_k", 0 <= self.top_k < MANY, f"0 (off) or more, below {MANY}"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (off) to 1"),
            ("min_keep", 1 <= self.min_keep < MANY, f"1 or more, below {MANY}"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            ("penalty_window", 0 <= self.penalty_window < MANY, f"0 (all tokens) or more, below {MANY}"),
            ("seed", 0 <= self.seed < 1 << 64, "0 or more, of 64 bits"),
        ):
            if not fine:
                raise RunError(f"{name} {getattr(self, name)} is out of range; it must be {allowed}")
        return self

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST

    @property
    def fewest(self) -> int:
        """What top-k leaves, ties aside."""
        return max(self.top_k, self.min_keep)

    def penalised(self, history: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The distinct tokens that penalties count, ascending, and how often each occurs."""
        if (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) == (1, 0, 0):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.unique(np.asarray(history[-self.penalty_window :], np.int64), return_counts=True)

    def asks(self, penalised: int) -> tuple[int, float]:
        """How many candidates of each rank are worth sending, and the temperature at which to sum
        up the rest, 0 for not at all.

        A penalty that lowers logits leaves the first n among the first n + penalised of before; one
        that raises some may bring up any token. One more candidate than wanted tells that no tie
        was left behind.
        """
        spare = min(penalised, NUCLEUS)
        raises = self.repetition_penalty < 1 or self.presence_penalty < 0 or self.frequency_penalty < 0
        if penalised and raises:
            return ALL, 0.0
        if self.greedy:
            return (2 + spare if penalised else 1), 0.0
        if self.top_k:
            return self.fewest + 1 + spare, 0.0
        if self.min_p and self.top_p == 1:
            return NUCLEUS + spare, 0.0
        if self.top_p < 1 and not penalised:
            return NUCLEUS, self.temperature
        return ALL, 0.0


# by name, for `--preset`; penalty_sample: likely words, but not the same ones again, and never
# fewer than five to choose among
PRESETS = {
    "greedy": Sampling(),
    "penalty_sample": Sampling(0.7, 50, 0.9, repetition_penalty=1.1, penalty_window=64, min_keep=5),
}
