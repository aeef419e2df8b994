"""Whether the ranks' collectives meet.

In: every rank's schedule. Out: nothing, or an error: it would be a deadlock at run time.
"""

from __future__ import annotations

from mpsplit.errors import ConvertError
from mpsplit.package.collectives import STAGE, WORLD, Call
from mpsplit.plan.shards import Plan

PAIRS = {"send": "recv", "recv": "send"}


def check_schedules(plan: Plan, schedules: list[tuple[Call, ...]]) -> None:
    """Group collectives must be equal, in order, on all ranks of the group; every send must find
    its recv, in order."""
    for group in (*plan.stages, tuple(range(plan.ranks))):
        identifier = WORLD if len(group) == plan.ranks and group not in plan.stages else STAGE
        within = {rank: _group_calls(schedules[rank], identifier) for rank in group}
        first = group[0]
        for rank in group[1:]:
            if within[rank] != within[first]:
                raise ConvertError(_difference(f"ranks {first} and {rank}", within[first], within[rank]))
    for a in range(plan.ranks):
        for b in range(plan.ranks):
            sent = [call for call in schedules[a] if call == Call("send", (WORLD, b))]
            received = [call for call in schedules[b] if call == Call("recv", (WORLD, a))]
            if len(sent) != len(received):
                raise ConvertError(_difference(f"rank {a} sending to {b}, and {b} receiving,", sent, received))


def _group_calls(schedule: tuple[Call, ...], group: int) -> list[Call]:
    return [call for call in schedule if call.operator not in PAIRS and call.arguments[0] == group]


def _difference(who: str, a: list[Call], b: list[Call]) -> str:
    return f"the collectives of {who} do not meet and would deadlock: {_text(a)} against {_text(b)}"


def _text(calls: list[Call]) -> str:
    return f"[{', '.join(map(str, calls))}]"
