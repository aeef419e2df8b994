"""What a request does to the model's logits: penalties for tokens that occur, and logit_bias.

In: the history as it grows. Out: changes to tell the ranks (answers.py), few at a time.

Told are int64: the bits of the three penalties, then of each token that changed its id, how often
it occurs from now on, and the bits of its bias.
"""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np

from mpsplit.runtime.choose.sampling import Sampling

CHANGE = struct.Struct("=qqd").pack
NONE = np.empty(0, np.int64)


class Tilt:
    def __init__(self, sampling: Sampling):
        self.sampling, self.biases = sampling, dict(sampling.logit_bias)
        self.counts: Counter[int] = Counter()
        self.seen = 0  # tokens of the history that are counted, or were
        self.fresh = True  # the ranks know nothing of it yet
        self._penalties = struct.pack(
            "=3d", sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        )

    def __bool__(self) -> bool:
        """Whether it changes anything, sooner or later."""
        return self.sampling.penalises or bool(self.biases)

    def changes(self, history: list[int]) -> np.ndarray:
        """What is new since the last time, or all after `fresh` was set; nothing where there is
        none."""
        changed = set(self._count(history)) if self.sampling.penalises else set()
        if self.fresh:
            changed = self.counts.keys() | self.biases.keys()
        elif not changed:
            return NONE
        counts, biases = self.counts, self.biases
        rows = [CHANGE(token, counts.get(token, 0), biases.get(token, 0.0)) for token in sorted(changed)]
        return np.frombuffer(bytearray(self._penalties + b"".join(rows)), np.int64)

    def _count(self, history: list[int]) -> list[int]:
        """Counts what came since, and forgets what left the window; the tokens concerned."""
        window = self.sampling.penalty_window or len(history)
        came = history[max(self.seen, len(history) - window) :]
        left = history[max(0, self.seen - window) : max(0, min(self.seen, len(history) - window))]
        self.seen = len(history)
        for token in came:
            self.counts[token] += 1
        for token in left:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
        return came + left
