"""The control groups that this process is in.

In: /proc/self/cgroup. Out: the folders of its groups, from its own up to the root, version 1 or 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def own_groups() -> str:
    """What /proc/self/cgroup says; nothing where there are no control groups."""
    return OWN_GROUPS.read_text(encoding="utf-8") if OWN_GROUPS.exists() else ""


def groups_of(controller: str, text: str, root: Path) -> Iterator[tuple[Path, int]]:
    """(folder, version) of each group that may limit what the controller counts. `text` as
    own_groups gives it; a container may not see the groups above its own."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        version = 2 if not controllers else 1 if controller in controllers.split(",") else None
        if version is None:
            continue
        # `cpu` may be a link to `cpu,cpuacct`, or the root itself
        tops = (root / controller, root / controllers) if version == 1 else ()
        top = next((folder for folder in tops if folder.is_dir()), root)
        ours = top / path.lstrip("/")
        yield from ((group, version) for group in (ours, *ours.parents) if group.is_relative_to(top))
