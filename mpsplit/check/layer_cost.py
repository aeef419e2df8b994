"""What it takes to compare layer by layer, told before it is done.

In: a model's facts. Out: seconds and bytes on rank 0. Invariant: a prediction depends on the model
and the cores alone, so that the same command does the same thing again.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.plan.model_facts import ModelFacts

LAYER_TOKENS = 64  # positions at which layers are compared
# times that rank 0 goes through the layers for it: the original's own state, then its attention and
# its MLP on the package's, exact and rounded
PASSES = 4
LOGITS = 6  # copies of the logits of these positions, in float64, while they are compared
SPEED = 2e10  # float32 operations a second of a core, as torch reaches them on short texts
CHEAP_SECONDS, CHEAP_BYTES = 60.0, 1 << 30


@dataclass(frozen=True)
class LayerCost:
    """`compared`: whether layers are, because that is cheap or was asked for."""

    compared: bool
    seconds: float
    bytes: int

    @classmethod
    def of(cls, facts: ModelFacts, cores: int, wish: bool | None) -> LayerCost:
        attention = 2 * (facts.heads + facts.kv_heads) * facts.head_dim * facts.hidden
        parameters = facts.layers * (attention + 3 * facts.mlp * facts.hidden) + facts.vocabulary * facts.hidden
        seconds = 2 * PASSES * LAYER_TOKENS * parameters / (SPEED * cores)
        states, logits = (2 * facts.layers + 1) * facts.hidden, facts.vocabulary
        size = LAYER_TOKENS * (4 * states + 8 * LOGITS * logits)
        cheap = seconds <= CHEAP_SECONDS and size <= CHEAP_BYTES
        return cls(cheap if wish is None else wish, round(seconds, 2), size)

    def __str__(self) -> str:
        price = f"about {self.seconds:,.3g} s and {self.bytes / 1e6:,.0f} MB on rank 0"
        if self.compared:
            return f"layer by layer too: {price}; --no-layers leaves that out"
        return f"not layer by layer: that takes {price}; --layers does it"
