"""What a plan needs to know of the machines: one Device a rank, and the links between them.

In: measurements. Out: a Cluster.

`mpsplit probe` measures it, and cluster_json.py is its file. `described` makes one from a few
numbers, for machines that nobody has measured. Units are bytes, seconds and flop; a multiplication
and an addition are two flop. Invariant: every number is positive, and every pair of devices has a
link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

from mpsplit.errors import ClusterError

MESSAGES = (4, 16 << 10, 1 << 20)  # bytes of the messages that a link is measured with


@dataclass(frozen=True)
class Measured:
    """A median, and how far the samples lay from it, as a part of it; 0 where nobody measured.

    All samples but the furthest, not the middle half of them: the memory of a shared machine is
    slower or faster for seconds, and the next probe may meet either.
    """

    value: float
    spread: float = 0.0

    @classmethod
    def of(cls, samples: Sequence[float]) -> Measured:
        value = median(samples)
        apart = sorted(abs(sample - value) for sample in samples)
        return cls(value, apart[max(len(apart) - 2, 0)] / value)

    @classmethod
    def together(cls, parts: Iterable[Measured]) -> Measured:
        """What several have side by side."""
        measured = list(parts)
        return cls(sum(part.value for part in measured), max(part.spread for part in measured))


@dataclass(frozen=True)
class Rate:
    """`decode`: bytes a second, read for one row. `prefill`: flop a second, with 128 rows."""

    decode: Measured
    prefill: Measured

    @classmethod
    def together(cls, rates: Sequence[Rate]) -> Rate:
        """What several have side by side."""
        return cls(Measured.together(rate.decode for rate in rates), Measured.together(rate.prefill for rate in rates))


@dataclass(frozen=True)
class Device:
    """What one rank has to itself while its neighbours on the same host work too.

    `kinds`: by how weights are stored (q4, f32 ...).
    """

    name: str
    host: str
    threads: int
    memory_bytes: int
    process_bytes: int  # taken before any weight is there
    read: Measured  # bytes a second, of memory
    disk: Measured  # bytes a second
    layer_seconds: Measured  # a decoder layer takes beside its weights: norms, starting threads
    step_seconds: Measured  # a token takes beside its layers
    attention: Rate  # over the cache of keys and values
    kinds: dict[str, Rate] = field(default_factory=dict)

    def rate(self, kind: str) -> Rate:
        kind = READ_AS.get(kind, kind)
        if kind not in self.kinds:
            measured = ", ".join(self.kinds) or "nothing"
            raise ClusterError(
                f"{self.name} was not measured with {kind}, only with {measured}; run `mpsplit probe` again"
            )
        return self.kinds[kind]


@dataclass(frozen=True)
class LinkTimes:
    """Seconds that messages of MESSAGES bytes take one way."""

    seconds: tuple[Measured, ...]

    def time(self, size: float) -> float:
        """Seconds for a message of `size` bytes, along straight lines through what was measured."""
        times = [measured.value for measured in self.seconds]
        i = 0 if size <= MESSAGES[1] else 1
        slope = (times[i + 1] - times[i]) / (MESSAGES[i + 1] - MESSAGES[i])
        return max(times[0], times[i] + max(slope, 0.0) * (size - MESSAGES[i]))

    @classmethod
    def of(cls, latency: float, bytes_per_second: float) -> LinkTimes:
        return cls(tuple(Measured(latency + size / bytes_per_second) for size in MESSAGES))


@dataclass(frozen=True)
class Sum:
    """What an all_reduce of `size` bytes took over the first `ranks` devices."""

    ranks: int
    size: int
    seconds: Measured


@dataclass(frozen=True)
class Cluster:
    """`links` by pairs of devices, the lower first.

    A pair without its own has `local` on one host, `remote` between hosts.
    """

    devices: tuple[Device, ...]
    links: dict[tuple[int, int], LinkTimes] = field(default_factory=dict)
    local: LinkTimes | None = None
    remote: LinkTimes | None = None
    sums: tuple[Sum, ...] = ()
    transport: str = ""
    measured: bool = True

    @property
    def size(self) -> int:
        return len(self.devices)

    @cached_property
    def hosts(self) -> dict[str, list[int]]:
        """The devices of each host, in order."""
        devices_of: dict[str, list[int]] = {}
        for i, device in enumerate(self.devices):
            devices_of.setdefault(device.host, []).append(i)
        return devices_of

    def link(self, a: int, b: int) -> LinkTimes:
        link = self.find_link(a, b)
        assert link, f"there is no link between devices {a} and {b}"
        return link

    def find_link(self, a: int, b: int) -> LinkTimes | None:
        """None where a file tells of no link between the two."""
        link = self.links.get((a, b) if a < b else (b, a))
        if link:
            return link
        return self.local if self.devices[a].host == self.devices[b].host else self.remote

    def only(self, chosen: Sequence[int]) -> Cluster:
        """The cluster of these devices, in this order."""
        links = {
            (i, j): self.links[min(a, b), max(a, b)]
            for j, b in enumerate(chosen)
            for i, a in enumerate(chosen[:j])
            if (min(a, b), max(a, b)) in self.links
        }
        return replace(self, devices=tuple(self.devices[i] for i in chosen), links=links, sums=())

    def whole_host(self, host: str) -> Cluster:
        """This host alone, as one rank with all its threads, and all that its ranks have."""
        parts = [self.devices[i] for i in self.hosts[host]]
        device = replace(
            parts[0],
            name=host,
            threads=sum(part.threads for part in parts),
            memory_bytes=sum(part.memory_bytes for part in parts),
            read=Measured.together(part.read for part in parts),
            attention=Rate.together([part.attention for part in parts]),
            kinds={kind: Rate.together([part.kinds[kind] for part in parts]) for kind in parts[0].kinds},
        )
        return replace(self, devices=(device,), links={}, sums=())


# Without a probe: a small computer of today, gigabit Ethernet. What a plan made of these says of
# time is a guess, and it says so.
ASSUMED_READ, ASSUMED_FLOP = 15e9, 100e9  # bytes and flop a second of one machine
ASSUMED_LATENCY, ASSUMED_BANDWIDTH = 100e-6, 117e6
KINDS = ("f32", "bf16", "q8", "q6", "q4")  # from large to small
# kinds that are not measured by themselves: read no slower
READ_AS = {
    "i4": "q4", "m4": "q4", "k4": "q4", "x4": "q4", "k3": "q4", "q3": "q4", "k2": "q4", "q2": "q4", "m5": "q6",
    "k5": "q6", "k6": "q6",
}  # fmt: skip


def described(
    memory: Sequence[int],
    read: Sequence[float] = (ASSUMED_READ,),
    latency: float = ASSUMED_LATENCY,
    bandwidth: float = ASSUMED_BANDWIDTH,
    flop: float = ASSUMED_FLOP,
) -> Cluster:
    """Machines that nobody has measured, one rank each: bytes of memory, of which `read` a second.

    The last `read` holds for the rest.
    """
    devices = []
    for i, size in enumerate(memory):
        rate = Rate(Measured(read[min(i, len(read) - 1)]), Measured(flop))
        devices.append(
            Device(
                name=f"machine-{i}", host=f"machine-{i}", threads=1, memory_bytes=size, process_bytes=70 << 20,
                read=rate.decode, disk=Measured(200e6), layer_seconds=Measured(20e-6), step_seconds=Measured(200e-6),
                attention=rate, kinds=dict.fromkeys(KINDS, rate),
            )
        )  # fmt: skip
    link = LinkTimes.of(latency, bandwidth)
    return Cluster(tuple(devices), local=link, remote=link, measured=False)
