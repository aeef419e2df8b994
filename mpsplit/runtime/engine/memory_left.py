"""How much memory this machine has left for us.

In: /proc, cgroups. Out: bytes.
"""

from __future__ import annotations

from pathlib import Path

from mpsplit.runtime.engine.control_groups import GROUPS, groups_of, own_groups

# version -> (limit, use, and the line of memory.stat with what can be dropped of that use)
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_bytes() -> int:
    """What can be had without swapping, or what this process' control groups leave if less."""
    system = meminfo(Path("/proc/meminfo").read_text(encoding="utf-8"))["MemAvailable"]
    return min([system, *left_in_cgroups(own_groups(), GROUPS)])


def meminfo(text: str) -> dict[str, int]:
    """Name -> bytes."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: int(rest.split()[0]) << 10 for name, _, rest in lines if rest.strip()}


def left_in_cgroups(text: str, root: Path) -> list[int]:
    """Bytes that each group with a limit leaves, from ours up to the root."""
    left = (_left(group, version) for group, version in groups_of("memory", text, root))
    return [size for size in left if size is not None]


def _left(group: Path, version: int) -> int | None:
    """None where nothing limits it."""
    limit, use, droppable = FILES[version]
    try:
        most, used = (group / limit).read_text(encoding="utf-8").strip(), int((group / use).read_text(encoding="utf-8"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - used + int(stat.get(droppable, 0)))
