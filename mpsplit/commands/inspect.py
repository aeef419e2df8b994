"""`mpsplit inspect`: what a package holds, or a GGUF file.

In: a package, or two to compare, or a GGUF file. Out: text, JSON or a picture; 1 where two differ.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mpsplit.commands.staged.staged_inspect import inspect_stages_command
from mpsplit.errors import RunError
from mpsplit.families.family import GGUF
from mpsplit.options.package_argument import add_keys, keys_of
from mpsplit.package.manifest import FUSED, GRAPH, Manifest
from mpsplit.package.stages.stage_manifest import is_pipeline

NETRON = (
    "In netron (netron.app), open PACKAGE/rank-R/fused.param, the graph of the native engine, or model.param, that of"
    " the ncnn wheel."
)
ENGINE = "engine"
GRAPHS = ("captured", "pnnx", ENGINE)  # in the order in which a model becomes them
OF_ONE = ("check", "context", "dot", "svg", "rank", "unfold", "graph")  # options that --diff has no use for


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("package", metavar="PACKAGE", nargs="?", help="the directory that convert finished, or a .gguf file")
    add("--check", action="store_true", help="read every file again and compare it with the manifest")
    add("--context", type=int, metavar="N", help="tokens of the cache of keys and values (default: the model's)")
    add("--diff", nargs=2, metavar=("A", "B"), help="what differs between two packages, names and order aside")
    add("--dot", metavar="FILE", help="draw a rank's graph, for graphviz; collectives are marked")
    add("--svg", metavar="FILE", help="or as a picture, which needs nothing")
    add("--graph", nargs="?", const=ENGINE, choices=GRAPHS, help="print a rank's graph as typed text: the engine's with"
        " the memory of its values (the default), what was captured, or pnnx's output")  # fmt: skip
    add("--rank", type=int, metavar="R", help="whose graph (default: 0)")
    add("--unfold", action="store_true", help="equal decoder layers one by one")
    add_keys(parser)
    add("--json", action="store_true", help="print one JSON object")


def _inspect_gguf(path: Path, args: argparse.Namespace) -> int:
    if idle := [f"--{name}" for name in OF_ONE if getattr(args, name)]:
        raise RunError(f"{path} is no package, and there is no use for {' and '.join(idle)}; leave it out")
    from mpsplit.export.model.gguf import gguf_contents

    if args.json:
        print(json.dumps(gguf_contents.describe(path), indent=1, ensure_ascii=False))
    else:
        gguf_contents.show(path)
    return 0


def _show_graph(package: Path, manifest: Manifest, args: argparse.Namespace) -> int:
    from mpsplit.graph.shown.engine_view import package_graph
    from mpsplit.graph.shown.graph_chart import graph_chart
    from mpsplit.graph.shown.graph_inspection import described_graph, graph_as_text
    from mpsplit.package.inside.inspection import check_rank, context_of, write_pictures
    from mpsplit.package.sealed.opened import opened

    rank = args.rank or 0
    check_rank(manifest, rank)
    files = [file for file in manifest.ranks[rank].files if Path(file.path).name in (GRAPH, FUSED)]
    with opened(package, manifest, files, keys_of(args)) as folder:
        graph = package_graph(folder, manifest, rank, args.unfold)
    described = described_graph(graph, rank, context_of(manifest, args.context))
    if args.dot or args.svg:
        write_pictures(graph_chart(graph), graph.title, {"dot": args.dot, "svg": args.svg})
    print(json.dumps(described, indent=1, ensure_ascii=False) if args.json else graph_as_text(described))
    return 0


def _show_foreign(package: Path, args: argparse.Namespace) -> int:
    from mpsplit.graph.foreign.foreign_graphs import foreign_graphs
    from mpsplit.graph.graph_text import graph_text

    if idle := [f"--{name}" for name in ("check", "context", "dot", "svg") if getattr(args, name)]:
        raise RunError(f"--graph {args.graph} only prints, and has no use for {' and '.join(idle)}; leave it out")
    rank = args.rank or 0
    texts = [graph_text(graph) for graph in foreign_graphs(package, args.graph, rank, args.unfold)]
    told = {"rank": rank, "graphs": texts}
    print(json.dumps(told, indent=1, ensure_ascii=False) if args.json else "\n".join(texts).rstrip("\n"))
    return 0


def inspect_command(args: argparse.Namespace) -> int:
    if bool(args.package) == bool(args.diff):
        raise RunError("inspect what? give either a PACKAGE or --diff A B")
    from mpsplit.package.inside import inspection

    if args.diff:
        if idle := [f"--{name}" for name in OF_ONE if getattr(args, name)]:
            raise RunError(f"--diff compares two packages and has no use for {' and '.join(idle)}; leave it out")
        mine, other = map(Path, args.diff)
        return inspection.show_difference(mine, other, args.json)
    package = Path(args.package)
    if package.suffix == GGUF:
        return _inspect_gguf(package, args)
    if args.graph and args.graph != ENGINE:
        return _show_foreign(package, args)
    if is_pipeline(package):
        return inspect_stages_command(args)
    manifest = Manifest.load(package)
    if args.check:
        for rank in range(manifest.plan.ranks):
            manifest.check_files(package, rank, again=True)
    keys = keys_of(args)
    if keys.configured or args.check and manifest.sealed:
        from mpsplit.package.sealed.opened import authenticate, vault_of

        (authenticate if args.check else vault_of)(package, manifest, keys)
    if args.graph or args.dot or args.svg:
        manifest.demand_ncnn(package)
    if args.graph:
        return _show_graph(package, manifest, args)
    if args.dot or args.svg:
        inspection.draw(package, manifest, args.rank or 0, args.unfold, {"dot": args.dot, "svg": args.svg})
        return 0
    if args.rank is not None or args.unfold:
        raise RunError("--rank and --unfold say which graph; give --graph, --dot FILE or --svg FILE with them")
    inspected = inspection.inspect(package, manifest, args.context)
    if args.json:
        print(json.dumps(inspection.describe(inspected), indent=1, ensure_ascii=False))
    else:
        inspection.show(inspected)
        if args.check:
            print(f"\n{sum(len(part.files) for part in manifest.ranks)} files of ranks are as the manifest says")
        if manifest.sealed:
            print(f"\nencrypted with {manifest.sealed.algorithm}, its key is {manifest.sealed.key}")
    return 0
