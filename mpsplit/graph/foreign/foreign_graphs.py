"""The graphs of other programs that a rank has on disk.

In: a partition or a package, which graphs, a rank. Out: Graphs, their equal layers folded; or a
PackageError that says which file is missing, and what makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import GraphError, PackageError
from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.foreign.captured_view import captured_graph
from mpsplit.graph.foreign.pnnx_view import pnnx_graph
from mpsplit.graph.typed_graph import Graph
from mpsplit.package.manifest import rank_folder
from mpsplit.package.whole_files import read_text


@dataclass(frozen=True)
class Kind:
    """`files`: of them in a rank's folder; `maker`: what writes them; `title`: before the file's
    name."""

    files: str
    maker: str
    title: str
    read: Callable[[str, str], Graph]


KINDS = {
    "captured": Kind("*.fx.txt", "`mpsplit partition`", "captured", captured_graph),
    "pnnx": Kind("passes/pnnx.param", "`mpsplit convert` of a decoder", "pnnx of a small model alike", pnnx_graph),
}


def foreign_graphs(package: Path, which: str, rank: int, unfold: bool = False) -> list[Graph]:
    """One, or one a stage."""
    kind, folder = KINDS[which], rank_folder(package, rank)
    if not folder.is_dir():
        raise PackageError(f"{package} has no {folder.name}; give a partition or a package, and one of its ranks")
    paths = sorted(folder.glob(kind.files))
    if not paths:
        raise PackageError(
            f"{folder} has no {kind.files}; {kind.maker} leaves it where it works: look there, or do it again"
        )
    graphs = [_read(path, kind, f"{kind.title}: {path.relative_to(package)}") for path in paths]
    return graphs if unfold else [folded(graph) for graph in graphs]


def _read(path: Path, kind: Kind, title: str) -> Graph:
    try:
        return kind.read(read_text(path, kind.maker), title)
    except GraphError as wrong:
        raise PackageError(f"{path} does not read as a graph ({wrong}); {kind.maker} makes it anew") from None
