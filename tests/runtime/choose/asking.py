"""Ranks that answer about slices of given logits, without a loop: C++ and numpy. `drawn`: C++ whose
only rank draws where it can."""

from __future__ import annotations

from mpsplit.native import cpp
from mpsplit.plan.shards import Range
from mpsplit.runtime.choose.answers import ALL, SPAN, NumpyAnswers
from mpsplit.runtime.choose.candidates import Answer, length
from mpsplit.runtime.choose.choosing import Choice
from mpsplit.runtime.choose.tilt import Tilt

MODULE = cpp.load("_choose")
KINDS = {"numpy": NumpyAnswers, **({"c++": MODULE.Answers, "drawn": MODULE.Answers} if MODULE else {})}


class Ranks:
    """The vocabulary cut at `bounds`; `words` counts what they sent to rank 0."""

    def __init__(self, logits, bounds, kind="numpy", slot=0):
        self.logits, self.slot, self.asked, self.words = logits, slot, [], 0
        self.rows = [Range(*pair) for pair in zip(bounds, bounds[1:], strict=False)]
        self.ranks = [KINDS[kind](rows.start) for rows in self.rows]
        self.draws = kind == "drawn" and len(self.rows) == 1

    def choose(self, choice: Choice, few: int = 0):
        """`few`: as many candidates are sent at first, where it is some."""
        self.tell(choice)
        self.wish = choice.wish
        if self.draws and len(message := self.drawn(choice)):
            return choice.choose([Answer(self.rows[0], self.wish, message, drawn=True)], self.again)
        if few and self.wish.wanted > few:
            self.wish = self.wish._replace(wanted=few)
        return choice.choose(self.again(*self.wish[:1], temperature=self.wish.temperature), self.again)

    def drawn(self, choice):
        return self.ranks[0].draws([(self.logits, self.slot, choice.wish, choice.draw)])[0]

    def tell(self, choice):
        """What changes the logits."""
        changes = Tilt(choice.sampling).changes(choice.history)
        for rank in self.ranks:
            rank.tilt(self.slot, True, changes)
            if choice.allowed is not None:
                rank.mask(self.slot, choice.allowed)

    def again(self, wanted, start=0, count=0, temperature=0.0, has=()):
        self.asked.append(wanted)
        wish = self.wish._replace(wanted=wanted, temperature=temperature, start=start, count=count)
        if wanted == SPAN:
            has = [len(range(max(start, rows.start), min(start + count, rows.stop))) for rows in self.rows]
        answers = []
        for i, (rank, rows) in enumerate(zip(self.ranks, self.rows, strict=True)):
            own = self.logits[rows.start : rows.stop]
            message = own if wanted == ALL else rank.answer(own, self.slot, wish)
            assert len(message) == length(wish, len(rows), has[i] if has else count)
            self.words += len(message)
            answers.append(Answer(rows, wish, message))
        return answers
