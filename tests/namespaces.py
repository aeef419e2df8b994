"""Several hosts on one machine: network namespaces with names and a slow cable between them.

In: names, a delay. Out: commands that run on a host. Where the kernel has netem, hosts are on a
bridge by veth, and netem delays; elsewhere each has a tap, and a thread of ours is the cable.
`why_not` says what this machine lacks for either.
"""

from __future__ import annotations

import fcntl
import functools
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress

from tests.running import CLEAN

CABLE = "cable"  # the interface's name on each host
TUNSETIFF, TAP_WITHOUT_HEADER = 0x400454CA, 0x1002


def _do(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


@functools.cache
def why_not() -> str:
    """Why hosts cannot be made here; empty when they can."""
    for tool in ("ip", "unshare", "hostname"):
        if not shutil.which(tool):
            return f"there is no {tool} (iproute2, util-linux)"
    try:
        with hosts(["mps-try"], delay_ms=1) as on:
            subprocess.run([*on["mps-try"], "true"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as wrong:
        return f"no network namespaces: {' '.join(wrong.cmd)}: {wrong.stderr.strip()}"
    except OSError as wrong:
        return f"no taps: {wrong}"
    return ""


@contextmanager
def hosts(names: list[str], delay_ms: float = 0):
    """name -> the words before a command that is to run on this host. `delay_ms`: what a message
    takes one way, besides."""
    with ExitStack() as undo:
        for name in names:
            _do(f"ip netns add {name}")
            undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
        (_bridged if _has_netem() else _relayed)(names, delay_ms, undo)
        for i, name in enumerate(names):
            for inside in (
                f"ip addr add 10.99.0.{i + 1}/24 dev {CABLE}",
                f"ip link set {CABLE} up",
                "ip link set lo up",
            ):
                _do(f"ip netns exec {name} {inside}")
        own = 'hostname "$0"; exec "$@"'
        yield {name: ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", own, name] for name in names}


@functools.cache
def _has_netem() -> bool:
    name = f"mpn{os.getpid()}"
    with ExitStack() as undo, suppress(subprocess.CalledProcessError, FileNotFoundError):
        _do(f"ip link add {name} type bridge")
        undo.callback(subprocess.run, ["ip", "link", "del", name], check=False, capture_output=True)
        _do(f"tc qdisc add dev {name} root netem delay 1ms")
        return True
    return False


def _bridged(names: list[str], delay_ms: float, undo: ExitStack) -> None:
    bridge = f"mpb{os.getpid()}"
    _do(f"ip link add {bridge} type bridge")
    undo.callback(subprocess.run, ["ip", "link", "del", bridge], check=False, capture_output=True)
    _do(f"ip link set {bridge} up")
    for i, name in enumerate(names):
        _do(f"ip link add {bridge}-{i} type veth peer name {CABLE} netns {name}")
        _do(f"ip link set {bridge}-{i} master {bridge} up")
        if delay_ms:
            _do(f"ip netns exec {name} tc qdisc add dev {CABLE} root netem delay {delay_ms}ms limit 100000")


def _relayed(names: list[str], delay_ms: float, undo: ExitStack) -> None:
    ends = []
    for i, name in enumerate(names):
        end, tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK), f"mpt{os.getpid()}-{i}"
        undo.callback(os.close, end)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", tap.encode(), TAP_WITHOUT_HEADER))
        _do(f"ip link set {tap} netns {name} name {CABLE}")
        ends.append(end)
    stop, unplug = os.pipe()
    relay = threading.Thread(target=_relay, args=(ends, delay_ms / 1000, stop), daemon=True)
    relay.start()
    for undoing in (relay.join, functools.partial(os.close, unplug)):
        undo.callback(undoing)


def _relay(ends: list[int], delay: float, stop: int) -> None:
    """Hands each frame to all other ends once its time has come, until `stop` is closed."""
    under_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait = max(0.0, under_way[0][0] - time.perf_counter()) if under_way else None
        ready, _, _ = select.select([stop, *ends], [], [], wait)
        if stop in ready:
            return
        for end in ready:
            with suppress(OSError):  # the host is gone
                under_way.append((time.perf_counter() + delay, end, os.read(end, 65536)))
        while under_way and under_way[0][0] <= time.perf_counter():
            _, source, frame = under_way.popleft()
            for end in ends:
                if end != source:
                    with suppress(OSError):  # not up yet, or gone; networks lose frames
                        os.write(end, frame)


def run_ranks(
    on: dict[str, list[str]], arguments: list[str], store, program: list[str], **environment
) -> list[subprocess.CompletedProcess]:
    """`program arguments` as one rank a host, which meet over gloo in the folder `store`."""
    ranks = []
    for rank, words in enumerate(on.values()):
        known = {
            **CLEAN, "RANK": str(rank), "WORLD_SIZE": str(len(on)),
            "MPSPLIT_STORE": str(store), "MPSPLIT_INTERFACE": CABLE, **environment,
        }  # fmt: skip
        ranks.append(
            subprocess.Popen(
                [*words, *program, *arguments], env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        return [subprocess.CompletedProcess(rank.args, *_ended(rank)) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def _ended(rank: subprocess.Popen) -> tuple[int, str, str]:
    out, err = rank.communicate(timeout=100)
    return rank.returncode, out, err
