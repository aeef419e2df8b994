"""How a token is to be chosen.

In: settings by name. Out: Sampling, checked, which also says what each rank must tell (answers.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import ALL, BLOCKS

NUCLEUS = 256  # candidates a rank sends where nothing says how many will do: nearly always enough
FEW = 4096  # where more are needed, all are sent
BIASES, STRONGEST = 1024, 100.0  # entries of logit_bias, and the most that one adds or takes
MANY = 1 << 31  # more than any model has tokens
COLDEST = 1e-5  # below it nothing but the likeliest token is left, and quotients overflow


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off, and each of them leaves
    `min_keep` tokens at least.

    Penalties look back over `penalty_window` tokens of prompt and answer, 0 for all: repetition
    divides the logit of a token that occurs (CTRL's rule), presence and frequency lower it once and
    for each time (OpenAI's rule). `logit_bias`, pairs of token and number, is added before that.
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
    logit_bias: tuple[tuple[int, float], ...] = ()

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
        if len(self.logit_bias) > BIASES:
            raise RunError(f"logit_bias has {len(self.logit_bias)} entries, at most {BIASES} are taken")
        for token, bias in self.logit_bias:
            if not -STRONGEST <= bias <= STRONGEST:
                raise RunError(
                    f"logit_bias {bias:g} of token {token} is out of range; it must be from -100 (never) to 100"
                )
        return self

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST

    @property
    def fewest(self) -> int:
        """What top-k leaves, ties aside."""
        return max(self.top_k, self.min_keep)

    @property
    def penalises(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def wanted(self) -> int:
        """What each rank is to send, as answers.py names it. One more candidate than wanted tells
        that no tie was left behind."""
        if self.greedy:
            return 1
        if self.top_k:
            return self.fewest + 1 if self.fewest < FEW else ALL
        if self.top_p < 1 or self.min_p:
            return max(NUCLEUS, self.min_keep + 1) if self.min_keep < FEW else ALL
        return BLOCKS

    @property
    def summed_at(self) -> float:
        """The temperature at which each rank sums up its slice; 0 where no sum is needed."""
        return self.temperature if self.wanted == BLOCKS or self.top_p < 1 and not self.top_k else 0.0


def biases_of(value: Mapping[str, float] | str) -> tuple[tuple[int, float], ...]:
    """Of {"5": -100} or "5:-100, 7:2.5": pairs of token and bias, by token."""
    pairs = (
        value.items() if isinstance(value, Mapping) else [p.partition(":")[::2] for p in value.split(",") if p.strip()]
    )
    found: dict[int, float] = {}
    for token, bias in pairs:
        try:
            number = float(bias) if type(bias) is not bool and token.strip().isdecimal() else None
        except (ValueError, TypeError):
            number = None
        if number is None:
            raise RunError(f"logit_bias {token}: {bias} is no token id and number, such as 5: -100")
        if int(token) in found:
            raise RunError(f"logit_bias names token {int(token)} twice")
        found[int(token)] = number
    return tuple(sorted(found.items()))


# by name, for `--preset`; penalty_sample: likely words, but not the same ones again, and never
# fewer than five to choose among
PRESETS = {
    "greedy": Sampling(),
    "penalty_sample": Sampling(0.7, 50, 0.9, repetition_penalty=1.1, penalty_window=64, min_keep=5),
}
