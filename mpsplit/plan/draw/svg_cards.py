"""The cards in the picture of a plan: one behind each column, with its names and its numbers.

In: a Picture. Out: SVG elements.

Names stand above the map of the model, numbers below it. Invariant: the slowest ranks have a red
frame, if others are faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsplit.plan.cluster import Device
from mpsplit.plan.draw.plan_columns import ColumnContents
from mpsplit.plan.draw.plan_places import CARDS, PAD, Picture
from mpsplit.plan.draw.plan_words import gib_text, seconds_text, slowest, span
from mpsplit.plan.draw.svg_elements import box, clip, label, stack
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost


def cards(picture: Picture) -> tuple[float, list[str]]:
    """The lower edge of all cards, and the elements."""
    parts, bottom, marked = [], picture.bottom + 178, _marked(picture.cost)
    for x, column in picture.columns:
        contents = picture.contents(column)
        edge = "talk" if marked.intersection(column.ranks) else "line"
        parts.append(box(x, CARDS, picture.wide, bottom - CARDS, "card", 8, edge))
        count = f" \u00d7 {len(column.ranks):,}" if len(column.ranks) > 1 else ""
        parts.append(label(x + PAD, CARDS + 24, column.name + count, 13.5, weight=600))
        names = clip(_names(contents.devices), picture.wide - 2 * PAD, 12)
        parts.append(label(x + PAD, CARDS + 41, names, 12, "soft"))
        parts += _numbers(picture, x + PAD, picture.bottom + 24, contents)
    return bottom, parts


def hosts(picture: Picture) -> list[str]:
    """A line over neighbours on one host, and its name where the devices do not have it already."""
    parts, names = [], {device.name for device in picture.cluster.devices}
    for on_hosts, first, last in _host_runs(picture):
        text = f"host {min(on_hosts)}" if len(on_hosts) == 1 else f"{len(on_hosts):,} hosts"
        width = last + picture.wide - first
        parts.append(box(first, CARDS - 6, width, 3, "soft", 1.5))
        if not on_hosts <= names:
            parts.append(label(first + PAD, CARDS + 57, clip(text, width - 2 * PAD, 11), 11, "soft"))
    return parts


def _host_runs(picture: Picture) -> list[tuple[set[str], float, float]]:
    """Hosts, and the left edges of the first and the last column of neighbours on them."""
    runs: list[tuple[set[str], float, float]] = []
    for x, column in picture.columns:
        on_hosts = {picture.cluster.devices[rank].host for rank in column.ranks}
        if runs and runs[-1][0] == on_hosts and len(on_hosts) == 1:
            runs[-1] = (on_hosts, runs[-1][1], x)
        else:
            runs.append((on_hosts, x, x))
    return runs


def _marked(cost: Cost) -> set[int]:
    """The slowest ranks, if others are faster."""
    ranks = slowest(cost)
    return ranks if len(ranks) < len(cost.busy) else set()


def _names(devices: Sequence[Device]) -> str:
    return devices[0].name if len(devices) == 1 else f"{devices[0].name} ... {devices[-1].name}"


def _numbers(picture: Picture, x: float, y: float, contents: ColumnContents) -> list[str]:
    """Shares, the memory bar and the busy bar of a column."""
    token, width = picture.cost.token, picture.wide - 2 * PAD
    used, limit, busy, fits = contents.used, contents.limit, contents.busy, contents.fits
    rest = used.staging + used.graph + used.process
    pieces, whole = [("weights", used.weights), ("cache", used.cache), ("rest", rest)], max(limit, used.total)
    room = f"{gib_text(used.total)} of {gib_text(limit)} GiB" + ("" if fits else ": does not fit")
    what = f"{gib_text(used.weights)} weights, {gib_text(used.cache)} cache, {gib_text(rest)} rest"
    return [
        *(label(x, y + 16 * i, text, 11.5) for i, text in enumerate(_shares(picture.facts, contents))),
        label(x, y + 74, room, 12, "ink" if fits else "over", weight=600),
        *stack(x, y + 80, width, 12, pieces, whole),
        *([] if fits else [box(x + width * limit / whole, y + 77, 3, 18, "over")]),
        label(x, y + 106, what, 10.5, "soft"),
        *stack(x, y + 116, width, 6, [("compute", busy)], token),
        label(x, y + 135, f"computes {seconds_text(busy)}, {busy / token:.0%} of a token", 10.5, "soft"),
    ]


def _shares(facts: ModelFacts, contents: ColumnContents) -> list[str]:
    """What of a layer and of the vocabulary the ranks have, in four lines at most."""
    lines = []
    if any(contents.counts("layers")):
        heads, kv_heads, mlp = (contents.counts(part) for part in ("heads", "kv_heads", "mlp"))
        copied = ", copied" if contents.copied else ""
        lines = [
            f"heads {span(heads)} of {facts.heads:,}, {_percent(heads, facts.heads)}",
            f"KV heads {span(kv_heads)} of {facts.kv_heads:,}{copied}",
            f"MLP {span(mlp)} of {facts.mlp:,}, {_percent(mlp, facts.mlp)}",
        ]
    rows = {"embedding": contents.counts("embed"), "head": contents.counts("head")}
    ends = [f"{name} {_percent(counts, facts.vocabulary)}" for name, counts in rows.items() if any(counts)]
    return lines + ([", ".join(ends)] if ends else [])


def _percent(counts: Sequence[int], whole: int) -> str:
    return f"{100 * max(counts) / whole:.3g}%"
