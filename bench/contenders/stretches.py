"""mpsplit on every rank of a package, for so many tokens as each order wants: python stretches.py
PACKAGE.

In: lines of a word, `decode` or `prefill`, and a number of tokens; then `end`. Out, from rank 0: a
line of JSON each, with the seconds. The threads come from OMP_NUM_THREADS. It asks nothing of
mpsplit that an older checkout does not have, so that two of them can be compared.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from mpsplit.comm import world
from mpsplit.runtime.load import load_engine

BEFORE, ROUND, PROMPT = 64, 128, 128  # tokens that decoding follows, before it begins again; of a prefill
END, DECODE, PREFILL = 0, 1, 2


class Stretches:
    def __init__(self, package: str):
        self.comm = world()
        self.engine = load_engine(Path(package), self.comm, None)
        self.last = self.engine.manifest.plan.stages[-1][0]  # the rank that has the next token
        vocabulary = self.engine.manifest.facts.vocabulary
        self.tokens = np.random.default_rng(0).integers(0, vocabulary, max(PROMPT, BEFORE + ROUND))

    def step(self, begin: int, end: int) -> None:
        self.engine.step(self.tokens[begin:end], begin)
        if self.comm.size > 1:
            self.comm.broadcast(np.zeros(1, np.float32), self.last)

    def play(self, order: int, tokens: int) -> float:
        if order == DECODE:
            self.step(0, BEFORE)
        began = time.perf_counter()
        if order == DECODE:
            for i in range(tokens):
                self.step(BEFORE + i % ROUND, BEFORE + i % ROUND + 1)
        else:
            for _ in range(0, tokens, PROMPT):
                self.step(0, PROMPT)
        return time.perf_counter() - began

    def lead(self) -> None:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        for line in iter(sys.stdin.readline, "end\n"):
            if not line:  # whoever gave the orders is gone
                break
            word, tokens = line.split()
            order = np.array([{"decode": DECODE, "prefill": PREFILL}[word], int(tokens)])
            self.comm.tell(order)
            print(json.dumps(self.play(*order.tolist())), file=answers, flush=True)
        self.comm.tell(np.array([END, 0]))

    def follow(self) -> None:
        order = np.zeros(2, np.int64)
        while True:
            self.comm.listen(order)
            if order[0] == END:
                return
            self.play(*order.tolist())


if __name__ == "__main__":
    stretches = Stretches(sys.argv[1])
    stretches.lead() if stretches.comm.rank == 0 else stretches.follow()
