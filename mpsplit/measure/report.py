"""`run --report`: what was predicted beside what was measured, part by part.

In: a Placed plan, a request's Stats. Out: Parts, and tables.

Predicted by plan/price/cost.py for this very request: its prompt, its tokens, the weights as the
package stores them. A rank's time between ranks is measured with the waiting for the slower ones;
the prediction has the same in it: all of a token that the rank does not compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsplit.measure.bench import Work
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.cost import Cost
from mpsplit.progress import console
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.loop.loop_protocol import Stats


@dataclass(frozen=True)
class ReportRow:
    """`predicted` is None where nobody knows the machines."""

    name: str
    unit: str
    measured: float
    predicted: float | None


def parts_of(facts: ModelFacts, stats: Stats, placed: Placed | None, kind: str, chunk: int) -> list[ReportRow]:
    fed, steps = stats.prompt_tokens - stats.cached_tokens, max(1, stats.new_tokens - 1)
    cost = placed and placed.price(
        facts, kind=kind, prompt=fed, new=stats.new_tokens, chunk=chunk, context=stats.prompt_tokens + stats.new_tokens
    )
    parts = [
        ReportRow("first token", "ms", 1e3 * stats.time_to_first_token_s, cost and 1e3 * cost.first_token),
        ReportRow("a token", "ms", 1e3 / stats.decode_tok_s if stats.decode_tok_s else 0.0, cost and 1e3 * cost.token),
        ReportRow("bytes a token", "B", stats.bytes_between_ranks / (fed + steps), cost and float(cost.payload)),
    ]
    for rank, account in enumerate(stats.accounts):
        computing = (account.token - account.token_between) / 1e6 / steps
        between = account.token_between / 1e6 / steps
        parts += [
            ReportRow(f"rank {rank}: computing", "ms", computing, cost and 1e3 * cost.busy[rank]),
            ReportRow(f"rank {rank}: between ranks", "ms", between, cost and 1e3 * _rest(cost, rank)),
            ReportRow(f"rank {rank}: memory", "MiB", account.peak_rss / 2**20, cost and cost.memory[rank].total / 2**20),
        ]
    return parts


def _rest(cost: Cost, rank: int) -> float:
    """Of a token's seconds in the stages, what this rank spends in collectives or waiting."""
    stage = next(stage for stage in cost.stages if rank in stage.ranks)
    return stage.seconds - cost.busy[rank]


def speed_of(facts: ModelFacts, placed: Placed, kind: str, work: Work, chunk: int) -> dict[str, float]:
    """What `mpsplit bench` should find, tokens a second: of decode, and of prefill by its
    length."""
    shortest = min(work.lengths)
    found = {"decode": 1 / placed.price(facts, kind=kind, prompt=shortest, new=work.new, chunk=chunk).token}
    for length in work.lengths:
        found[f"prefill {length}"] = length / placed.price(facts, kind=kind, prompt=length, chunk=chunk).first_token
    return found


def show(parts: list[ReportRow], placed: Placed | None, accounts: Sequence[Account]) -> None:
    from rich.table import Table

    from mpsplit.runtime.account.account_tables import tables

    table = Table("", "measured", "predicted", "measured / predicted", title="predicted beside measured")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in parts:
        shown = [f"{part.measured:,.2f} {part.unit}", "", ""]
        if part.predicted is not None:
            shown[1] = f"{part.predicted:,.2f} {part.unit}"
            shown[2] = f"{part.measured / part.predicted:.2f}" if part.predicted else ""
        table.add_row(part.name, *shown)
    out = console(stderr=True)
    for each in (table, *tables(accounts)):
        out.print(each)
    if placed is None:
        out.print(
            "nothing is predicted: the package was made without a cluster.json; measure one with `mpsplit probe` and"
            " give --cluster"
        )
    elif not placed.cluster.measured:
        out.print("the prediction is for machines that nobody has measured; `mpsplit probe` does")
