"""cluster.json: a Cluster as text that people can read and mend.

In: JSON. Out: a Cluster, or the first number that cannot be right. Invariant: a Cluster comes back
from its file as it was.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

from mpsplit.errors import ClusterError
from mpsplit.plan.cluster import MESSAGES, Cluster, Device, LinkTimes, Measured, Rate, Sum

CLUSTER_VERSION = 1
JsonObject = dict[str, Any]
Kind = type | tuple[type, ...]  # of JSON
AGAIN = "mend it, or measure again with `mpsplit probe`"


def to_json(cluster: Cluster) -> JsonObject:
    return {
        "version": CLUSTER_VERSION,
        "units": "bytes, seconds, bytes a second; prefill in flop a second; spread as a part of the value",
        "measured": cluster.measured,
        "transport": cluster.transport,
        "messages": list(MESSAGES),
        "devices": [asdict(device) for device in cluster.devices],
        "links": [{"between": list(pair), **asdict(link)} for pair, link in cluster.links.items()],
        "local": cluster.local and asdict(cluster.local),
        "remote": cluster.remote and asdict(cluster.remote),
        "sums": [asdict(timed) for timed in cluster.sums],
    }


def save_cluster(cluster: Cluster, path: Path) -> None:
    Path(path).write_text(json.dumps(to_json(cluster), indent=1) + "\n", encoding="utf-8")


def load_cluster(path: Path) -> Cluster:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError:
        raise ClusterError(f"there is no {path}; make it with `mpirun ... mpsplit probe --out {path}`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as wrong:
        raise ClusterError(f"{path} is not JSON ({wrong}); {AGAIN}") from None
    return from_json(data, str(path))


def from_json(data: JsonObject, source: str = "the cluster") -> Cluster:
    """Refuses what is missing, negative or contradicts itself, and names it."""
    return _Reader(source).cluster(data)


def device_from_json(data: JsonObject, source: str = "the device") -> Device:
    return _Reader(source).device(data, "it")


def sums_from_json(data: list[JsonObject], devices: int, source: str = "the sums") -> tuple[Sum, ...]:
    return tuple(_Reader(source).sum(entry, i, devices) for i, entry in enumerate(data))


class _Reader:
    """JSON into dataclasses; `source` is what errors call it."""

    def __init__(self, source: str):
        self.source = source

    def cluster(self, data: JsonObject) -> Cluster:
        if not isinstance(data, dict) or data.get("version") != CLUSTER_VERSION:
            version = data.get("version") if isinstance(data, dict) else None
            raise ClusterError(f"{self.source} has version {version}, this mpsplit reads {CLUSTER_VERSION}; {AGAIN}")
        if tuple(self.of(data, "messages", list)) != MESSAGES:
            self.fail(f"messages are {data['messages']}, they must be {list(MESSAGES)}")
        devices = tuple(self.device(entry, f"devices[{i}]") for i, entry in enumerate(self.of(data, "devices", list)))
        names = [device.name for device in devices]
        if not devices or len(set(names)) < len(names):
            self.fail(f"the {len(names)} devices have {len(set(names))} different names; each needs its own")
        links = self.links(data, len(devices))
        sums = self.of(data, "sums", list) if "sums" in data else []
        local, remote = (self.link(data[name], name) if data.get(name) else None for name in ("local", "remote"))
        cluster = Cluster(
            devices=devices,
            links=links,
            local=local,
            remote=remote,
            sums=tuple(self.sum(entry, i, len(devices)) for i, entry in enumerate(sums)),
            transport=str(data.get("transport", "")),
            measured=bool(data.get("measured", True)),
        )
        if not (local and remote):
            self.all_linked(cluster)
        return cluster

    def links(self, data: JsonObject, devices: int) -> dict[tuple[int, int], LinkTimes]:
        links = {}
        for i, entry in enumerate(self.of(data, "links", list)):
            pair = tuple(self.of(entry, "between", list, f"links[{i}].between"))
            if len(pair) != 2 or not all(isinstance(end, int) for end in pair) or not 0 <= pair[0] < pair[1] < devices:
                self.fail(
                    f"links[{i}] is between {list(pair)}; it must be two of the {devices} devices, the lower first"
                )
            if pair in links:
                self.fail(f"links[{i}] is between {list(pair)} a second time")
            links[pair] = self.link(entry, f"links[{i}]")
        return links

    def all_linked(self, cluster: Cluster) -> None:
        for b in range(cluster.size):
            for a in range(b):
                if cluster.find_link(a, b) is None:
                    self.fail(f"there is no link between devices {a} and {b}")

    def device(self, entry: JsonObject, where: str) -> Device:
        kinds = self.of(entry, "kinds", dict, f"{where}.kinds")
        threads = self.of(entry, "threads", int, f"{where}.threads")
        if threads < 1:
            self.fail(f"{where}.threads is {threads}; it must be at least 1")
        values: dict[str, Any] = {
            "name": self.of(entry, "name", str, f"{where}.name"),
            "host": self.of(entry, "host", str, f"{where}.host"),
            "threads": threads,
            "attention": self.rate(entry, "attention", where),
            "kinds": {kind: self.rate(kinds, kind, f"{where}.kinds") for kind in kinds},
            **{name: int(self.positive(entry, name, where)) for name in ("memory_bytes", "process_bytes")},
            **{name: self.measured(entry, name, where) for name in ("read", "disk", "layer_seconds", "step_seconds")},
        }
        if unknown := set(entry) - {f.name for f in fields(Device)}:
            self.fail(f"{where} has {', '.join(sorted(unknown))}, which nobody knows")
        if values["process_bytes"] >= values["memory_bytes"]:
            self.fail(
                f"{where} has {values['memory_bytes']} bytes of memory and a process of {values['process_bytes']}"
                " bytes; nothing is left"
            )
        return Device(**values)

    def rate(self, entry: JsonObject, name: str, where: str) -> Rate:
        inner = self.of(entry, name, dict, f"{where}.{name}")
        return Rate(*(self.measured(inner, part, f"{where}.{name}") for part in ("decode", "prefill")))

    def link(self, entry: JsonObject, where: str) -> LinkTimes:
        seconds = self.of(entry, "seconds", list, f"{where}.seconds")
        if len(seconds) != len(MESSAGES):
            self.fail(f"{where}.seconds has {len(seconds)} entries, one for each of {list(MESSAGES)} bytes is needed")
        return LinkTimes(tuple(self.measured({"seconds": s}, "seconds", where) for s in seconds))

    def sum(self, entry: JsonObject, i: int, devices: int) -> Sum:
        ranks, size = (int(self.positive(entry, name, f"sums[{i}]")) for name in ("ranks", "size"))
        if not 2 <= ranks <= devices:
            self.fail(f"sums[{i}] is of {ranks} ranks, there are {devices} devices")
        return Sum(ranks, size, self.measured(entry, "seconds", f"sums[{i}]"))

    def measured(self, entry: JsonObject, name: str, where: str) -> Measured:
        inner = self.of(entry, name, dict, f"{where}.{name}")
        value, spread = self.positive(inner, "value", f"{where}.{name}"), inner.get("spread", 0.0)
        if not isinstance(spread, int | float) or not 0 <= spread <= sys.float_info.max:
            self.fail(f"{where}.{name}.spread is {spread!s:.40}; it must be a number from 0")
        return Measured(value, float(spread))

    def positive(self, entry: JsonObject, name: str, where: str) -> float:
        value = self.of(entry, name, (int, float), f"{where}.{name}")
        if not 0 < value <= sys.float_info.max:
            self.fail(f"{where}.{name} is {value!s:.40}; it must be above 0, and a number that a float can be")
        return float(value)

    def of(self, entry: JsonObject, name: str, kind: Kind, where: str = "") -> Any:
        """The value of that name, which is of this kind."""
        if not isinstance(entry, dict) or name not in entry:
            self.fail(f"{where or name} is missing")
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            self.fail(f"{where or name} is {entry[name]!r}, which is no {_called(kind)}")
        return entry[name]

    def fail(self, what: str) -> NoReturn:
        raise ClusterError(f"{self.source}: {what}; {AGAIN}")


def _called(kind: Kind) -> str:
    names: dict[Kind, str] = {str: "text", list: "list", dict: "object", int: "whole number"}
    return names.get(kind, "number")
