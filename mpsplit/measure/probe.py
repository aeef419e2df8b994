"""`mpsplit probe`: what the machines and the links between them can do.

In: a communicator. Out: a Cluster, the same on every rank.

bench/README.md tells the method. Invariant: all ranks walk through the same samples in the same
order, with a wait for all before each, so that the ranks of a host measure what is left to them
while their neighbours work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.measure.probe_engine import Effort, EngineProbe, kinds_here
from mpsplit.measure.probe_links import LinkProbe
from mpsplit.measure.probe_machine import DiskProbe, MemoryProbe, busy_share, host_names, process_bytes
from mpsplit.native import cpp
from mpsplit.package.json_fields import many, number, one_of
from mpsplit.package.stored.quantisation import KINDS
from mpsplit.package.together.exchanged import exchanged, plain
from mpsplit.plan.cluster import MESSAGES, Cluster, Device, Measured
from mpsplit.plan.cluster_json import device_from_json
from mpsplit.progress import console, track
from mpsplit.runtime.engine.memory_left import available_bytes
from mpsplit.runtime.engine.native_engine import NativeEngine, missing
from mpsplit.runtime.engine.stock_engine import StockEngine

BUSY = 0.2  # of a machine's cores, above which others are in the way
# seconds before a sample: OpenMP's threads spin for a while after their work, and ncnn's are not
# the engine's
REST = 0.005
USUAL = Effort()


def probe(comm: Communicator, threads: int, disk: Path, hidden: int, effort: Effort = USUAL) -> Cluster:
    cpp.load("_engine")  # belongs to what a process takes before any weight is there
    process = process_bytes()
    hosts = host_names(comm)
    neighbours = hosts.count(hosts[comm.rank])
    comm.wait()
    memory = available_bytes() // neighbours
    effort = effort.within(memory)
    files = DiskProbe(disk, effort.disk // neighbours)
    _warn_of_others(comm, hosts)
    links = LinkProbe(comm, hidden)
    here = exchanged(comm, list(kinds_here()), plain(many(one_of(KINDS), 2 * len(KINDS))))
    kinds = tuple(kind for kind in here[0] if all(kind in other for other in here))
    engine = EngineProbe(StockEngine if missing(comm) else NativeEngine, effort, kinds, threads)
    takes = {"read": MemoryProbe(effort.read, threads).rate, "disk": files.rate} | engine.samples
    samples = _rounds(comm, takes, links, effort)
    device = Device(
        name=f"{hosts[comm.rank]}:{hosts[: comm.rank].count(hosts[comm.rank])}", host=hosts[comm.rank],
        threads=threads, memory_bytes=memory, process_bytes=process,
        read=Measured.of(samples["read"]), disk=Measured.of(samples["disk"]), **engine.fields_of(samples),
    )  # fmt: skip
    return Cluster(
        devices=tuple(exchanged(comm, asdict(device), device_from_json)),
        links=links.links(), sums=links.all_reduces(),
        transport=getattr(comm, "transport", "mpi4py" if comm.size > 1 else ""),
    )  # fmt: skip


def _warn_of_others(comm: Communicator, hosts: list[str]) -> None:
    """What is measured is what other processes leave: rank 0 says where they take much."""
    shares = exchanged(comm, busy_share(), plain(number(1e6)))
    busy = {host: share for host, share in zip(hosts, shares, strict=True) if share > BUSY}
    if busy and comm.rank == 0:
        named = ", ".join(f"{share:.0%} of the cores of {host}" for host, share in busy.items())
        print(f"mpsplit: other processes use {named}; probe again when they are done", file=sys.stderr)


def _rounds(
    comm: Communicator, takes: dict[str, Callable[[], float]], links: LinkProbe, effort: Effort
) -> dict[str, list[float]]:
    """One round to warm up, which also tells how many there is time for."""

    def sampled() -> dict[str, float]:
        samples = {}
        for name, take in takes.items():
            comm.wait()
            time.sleep(REST)
            samples[name] = take()
        links.sample()
        return samples

    began = time.perf_counter()
    sampled()
    links.forget()
    least, most = effort.rounds
    slowest = max(exchanged(comm, time.perf_counter() - began, plain(number(1e9))))
    count = max(least, min(most, int(effort.seconds / slowest)))
    rounds = [sampled() for _ in track(range(count), "rounds")]
    return {name: [samples[name] for samples in rounds] for name in takes}


def show(cluster: Cluster) -> None:
    from rich.table import Table

    out = console()
    devices = Table("", *(device.name for device in cluster.devices), title="machines")
    for name, words in _rows(cluster):
        devices.add_row(name, *words)
    out.print(devices)
    if cluster.size > 1:
        links = Table("between", *map(_bytes, MESSAGES), title=f"messages one way, {cluster.transport}")
        for (a, b), link in cluster.links.items():
            links.add_row(f"{a} - {b}", *map(_micros, link.seconds))
        sums = Table("ranks", "bytes", "time", title="all_reduce")
        for timed in cluster.sums:
            sums.add_row(str(timed.ranks), _bytes(timed.size), _micros(timed.seconds))
        out.print(links)
        out.print(sums)


def _rows(cluster: Cluster) -> list[tuple[str, list[str]]]:
    """The table's lines: a name, and a word for each device."""
    columns = [_words(device, list(cluster.devices[0].kinds)) for device in cluster.devices]
    return [(name, [words[name] for words in columns]) for name in columns[0]]


def _words(device: Device, kinds: list[str]) -> dict[str, str]:
    words = {
        "threads": str(device.threads),
        "memory": f"{device.memory_bytes / 2**20:,.0f} MiB",
        "of which a process takes": f"{device.process_bytes / 2**20:,.0f} MiB",
        "memory reads": _gigabytes(device.read),
        "disk reads": _gigabytes(device.disk),
        "a layer, beside weights": _micros(device.layer_seconds),
        "a token, beside layers": _micros(device.step_seconds),
        "attention, decode": _gigabytes(device.attention.decode),
        "attention, prefill": _gigaflop(device.attention.prefill),
    }
    for kind in kinds:
        words[f"{kind}, decode"] = _gigabytes(device.kinds[kind].decode)
        words[f"{kind}, prefill"] = _gigaflop(device.kinds[kind].prefill)
    return words


def _spread(measured: Measured) -> str:
    return f" ±{measured.spread:.0%}"


def _gigabytes(measured: Measured) -> str:
    return f"{measured.value / 1e9:.2f} GB/s{_spread(measured)}"


def _gigaflop(measured: Measured) -> str:
    return f"{measured.value / 1e9:.0f} Gflop/s{_spread(measured)}"


def _micros(measured: Measured) -> str:
    return f"{measured.value * 1e6:,.1f} us{_spread(measured)}"


def _bytes(size: int) -> str:
    return next(f"{size >> shift} {unit}" for shift, unit in ((20, "MB"), (10, "KB"), (0, "B")) if size >> shift)
