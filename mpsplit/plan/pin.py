"""A person's own choice of a plan.

In: "embed=0; layers 0-9=0,1; layers 10-31=2; head=2". Out: a Plan, and the device of each rank.

Layers go in the order of the model, both ends included. The devices of a clause share its layers,
by their speed or by weights (`layers 0-31=0*7,1*3`). Where nobody is named for the embedding or the
head, the devices of the first or the last layers have it. An embedding or a head on devices without
layers is a stage of its own. Invariant: each device has one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan, Share, lay_out
from mpsplit.plan.steps import divide, divide_heads

SYNTAX = 'such as --pin "embed=0; layers 0-9=0,1; layers 10-31=2; head=2"'
CLAUSE = re.compile(r"(?P<what>embed|head|layers?\s+(?P<first>\d+)(\s*-\s*(?P<last>\d+))?)\s*=\s*(?P<who>[\d,.*\s]+)")
MEMBER = re.compile(r"(\d+)(?:\*(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Members:
    """Devices, and how fast each is taken to be."""

    devices: tuple[int, ...]
    speeds: tuple[float, ...]


def pinned(facts: ModelFacts, text: str, cluster: Cluster, job: Job) -> tuple[Plan, tuple[int, ...]]:
    groups, ends = _read(text, cluster, job)
    _check_layers(groups, facts)
    stages = [(last - first + 1, members) for first, last, members in groups]
    embed, head = ends.get("embed", stages[0][1]), ends.get("head", stages[-1][1])
    if not set(embed.devices) & set(stages[0][1].devices):
        stages.insert(0, (0, embed))
    if not set(head.devices) & set(stages[-1][1].devices):
        stages.append((0, head))
    for what, members, (_, place) in (("embed", embed, stages[0]), ("head", head, stages[-1])):
        if missing := set(members.devices) - set(place.devices):
            raise PlanError(
                f"{what}={','.join(map(str, members.devices))}: device {min(missing)} is not with {place.devices[0]}, "
                "which has its share too; name devices of one stage, or others without layers"
            )
    devices = [device for _, members in stages for device in members.devices]
    if twice := [device for device in devices if devices.count(device) > 1]:
        raise PlanError(f"device {twice[0]} has two places in the pin; a device takes part in one stage only")
    shared = [
        (
            layers,
            _shares(facts, members, job, layers, embed if i == 0 else None, head if i + 1 == len(stages) else None),
        )
        for i, (layers, members) in enumerate(stages)
    ]
    return lay_out(facts, shared), tuple(devices)


def _read(text: str, cluster: Cluster, job: Job) -> tuple[list[tuple[int, int, Members]], dict[str, Members]]:
    """(first layer, last layer, who) of each clause with layers, in order; who has the ends."""
    groups = []
    ends: dict[str, Members] = {}
    for clause in filter(None, (part.strip() for part in text.split(";"))):
        match = CLAUSE.fullmatch(clause)
        if not match:
            raise PlanError(f"--pin has {clause!r}, which is none of embed=, layers A-B= and head=; {SYNTAX}")
        members = _members(match["who"], cluster, job)
        if match["first"] is None:
            if match["what"] in ends:
                raise PlanError(f"--pin names {match['what']} twice; once is enough")
            ends[match["what"]] = members
        else:
            groups.append((int(match["first"]), int(match["last"] or match["first"]), members))
    if not groups:
        raise PlanError(f"--pin names no layers; {SYNTAX}")
    return sorted(groups, key=lambda group: group[:2]), ends


def _members(text: str, cluster: Cluster, job: Job) -> Members:
    devices, speeds = [], []
    for word in text.replace(" ", "").split(","):
        match = MEMBER.fullmatch(word)
        if not match:
            raise PlanError(f"--pin has {word!r} where a device or DEVICE*WEIGHT belongs, such as 0 or 0*2")
        device = int(match[1])
        if device >= cluster.size:
            raise PlanError(f"--pin names device {device}; there are {cluster.size}, 0 to {cluster.size - 1}")
        devices.append(device)
        weight = float(match[2]) if match[2] else None
        if weight == 0:
            raise PlanError(f"--pin gives device {device} the weight 0; leave it out instead")
        speeds.append(weight or cluster.devices[device].rate(job.kind).decode.value)
    if any("*" in word for word in text.split(",")) and not all("*" in word for word in text.split(",")):
        raise PlanError(f"--pin gives weights to some devices of {text.strip()!r}; give them to all, or to none")
    return Members(tuple(devices), tuple(speeds))


def _check_layers(groups: Sequence[tuple[int, int, Members]], facts: ModelFacts) -> None:
    expected = 0
    for first, last, _ in groups:
        if last < first:
            raise PlanError(f"--pin has layers {first}-{last}; the first comes first")
        if first > expected:
            raise PlanError(f"--pin leaves layers {expected}-{first - 1} out; each layer needs a device")
        if first < expected:
            raise PlanError(f"--pin names layer {first} twice; each layer has one stage")
        expected = last + 1
    if expected < facts.layers:
        raise PlanError(f"--pin leaves layers {expected}-{facts.layers - 1} out; each layer needs a device")
    if expected > facts.layers:
        raise PlanError(f"--pin names layer {expected - 1}; the model has {facts.layers}, 0 to {facts.layers - 1}")


def _shares(
    facts: ModelFacts, members: Members, job: Job, layers: int, embed: Members | None, head: Members | None
) -> list[Share]:
    steps = job.steps(facts, len(members.devices))
    none = [0] * len(members.devices)
    heads = divide_heads(facts, steps, members.speeds) if layers else none
    mlp = divide(facts.mlp, steps.mlp, members.speeds) if layers else none
    rows = [
        divide(facts.vocabulary, steps.vocabulary, [_speed(end, device) for device in members.devices]) if end else none
        for end in (embed, head)
    ]
    return [Share(*counts) for counts in zip(heads, mlp, *rows, strict=True)]


def _speed(members: Members, device: int) -> float:
    return members.speeds[members.devices.index(device)] if device in members.devices else 0.0
