"""`run --report`: what was predicted beside what was measured, part by part.

In: a Placed plan, a request's Stats. Out: ReportRows, and tables.

plan/price/cost.py predicts for this very request: its prompt, its tokens, the weights as the
package stores them. A rank's time between ranks is measured with the waiting for the slower ones.
The prediction has the same in it: all of a token that the rank does not compute. Invariant: each
row stands for the same thing on both sides.
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
    context = stats.prompt_tokens + stats.new_tokens
    cost = None
    if placed:
        cost = placed.price(facts, kind=kind, prompt=fed, new=stats.new_tokens, chunk=chunk, context=context)
    token = 1e3 / stats.decode_tok_s if stats.decode_tok_s else 0.0
    sent = stats.bytes_between_ranks / (fed + steps)
    rows = [
        ReportRow("first token", "ms", 1e3 * stats.time_to_first_token_s, 1e3 * cost.first_token if cost else None),
        ReportRow("a token", "ms", token, 1e3 * cost.token if cost else None),
        ReportRow("bytes a token", "B", sent, float(cost.payload) if cost else None),
    ]
    for rank, account in enumerate(stats.accounts):
        computing = (account.token - account.token_between) / 1e6 / steps
        between = account.token_between / 1e6 / steps
        memory = cost.memory[rank].total / 2**20 if cost else None
        rows += [
            ReportRow(f"rank {rank}: computing", "ms", computing, 1e3 * cost.busy[rank] if cost else None),
            ReportRow(f"rank {rank}: between ranks", "ms", between, 1e3 * _rest(cost, rank) if cost else None),
            ReportRow(f"rank {rank}: memory", "MiB", account.peak_rss / 2**20, memory),
        ]
    return rows


def _rest(cost: Cost, rank: int) -> float:
    """Of a token's seconds in the stages, what this rank spends in collectives or waiting."""
    stage = next(stage for stage in cost.stages if rank in stage.ranks)
    return stage.seconds - cost.busy[rank]


def speed_of(facts: ModelFacts, placed: Placed, kind: str, work: Work, chunk: int) -> dict[str, float]:
    """What `mpsplit bench` should find: tokens a second of decode, and of prefill by length."""
    shortest = min(work.lengths)
    speeds = {"decode": 1 / placed.price(facts, kind=kind, prompt=shortest, new=work.new, chunk=chunk).token}
    for length in work.lengths:
        speeds[f"prefill {length}"] = length / placed.price(facts, kind=kind, prompt=length, chunk=chunk).first_token
    return speeds


def show(rows: list[ReportRow], placed: Placed | None, accounts: Sequence[Account]) -> None:
    from rich.table import Table

    from mpsplit.runtime.account.account_tables import tables

    table = Table("", "measured", "predicted", "measured / predicted", title="predicted beside measured")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown = [f"{row.measured:,.2f} {row.unit}", "", ""]
        if row.predicted is not None:
            shown[1] = f"{row.predicted:,.2f} {row.unit}"
            shown[2] = f"{row.measured / row.predicted:.2f}" if row.predicted else ""
        table.add_row(row.name, *shown)
    out = console(stderr=True)
    for printed in (table, *tables(accounts)):
        out.print(printed)
    if placed is None:
        out.print(
            "nothing is predicted: the package was made without a cluster.json; measure one with `mpsplit probe` and"
            " give --cluster"
        )
    elif not placed.cluster.measured:
        out.print("the prediction is for machines that nobody has measured; `mpsplit probe` does")
