"""How the house stands: the direction of imports, no circles, rooms that can be seen at a glance.

Read from the source with ast.
"""

import ast
import functools
import graphlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mpsplit"
GROUND = {"cache_folder", "errors", "comm", "leash", "native", "progress"}  # what every part stands on
# The package is the border: both halves import it, it imports neither, and neither half imports the
# other.
MAY_IMPORT = {
    "families": set(),
    "plan": {"families"},
    "package": {"families", "plan"},
    "graph": {"plan", "package"},
    "export": {"families", "plan", "package", "graph"},
    # torch.compile's backend: no other part imports it
    "train": {"plan", "package", "graph", "export"},
    "runtime": {"plan", "package"},
    "measure": {"families", "plan", "package", "runtime"},
    "check": {"families", "plan", "package", "export", "runtime"},
    "serve": {"runtime"},
    # what commands share knows no command
    "options": {"plan", "package", "export", "runtime", "mpirun", "launchers"},
    # Ray as well as mpirun: what is started stands in the options
    "launchers": {"plan", "mpirun"},
}
FORBIDDEN = {
    "families": {"torch", "transformers", "ncnn", "numpy"},
    "plan": {"torch", "transformers", "ncnn"},
    "package": {"torch", "transformers", "ncnn", "mpi4py"},
    "graph": {"torch", "transformers", "ncnn", "mpi4py"},
    "export": {"ncnn"},
    "train": {"ncnn", "mpi4py"},
    "runtime": {"torch", "transformers", "safetensors"},
    "measure": {"torch", "transformers", "safetensors"},
    "serve": {"torch", "transformers", "ncnn", "numpy"},
    "options": {"torch", "transformers", "ncnn", "numpy"},
}
CROWD = 16  # files of a room; commands, of which there is a file each, may be more


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Also those that stand inside functions or are for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_stands_before_it(part):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            words = name.split(".")
            assert words[0] not in FORBIDDEN.get(part, ()), f"{path.relative_to(ROOT)} imports {name}"
            if words[0] == "mpsplit" and len(words) > 1:
                assert words[1] in MAY_IMPORT[part] | GROUND | {part}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=str)
def test_nothing_that_ranks_tell_each_other_is_a_program(path):
    """Neither pickle nor mpi4py's methods in small letters, which pickle what they are given."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pickled = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
    assert not pickled & {name.split(".")[0] for name in imports(path)}
    small = set("bcast allgather gather scatter alltoall allreduce isend irecv sendrecv send recv".split())
    for node in itertools.chain.from_iterable(map(ast.walk, [tree, *programs(tree)])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            whose = ast.unparse(node.func.value)
            mpi = whose.endswith(".mpi") or "COMM_WORLD" in whose
            assert not (mpi and node.func.attr in small), ast.unparse(node)


def programs(tree: ast.AST) -> list[ast.AST]:
    """What is handed to `python -c`."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [ast.parse(text) for text in texts if "from mpi4py import" in text]


def test_no_circles():
    """The __init__ of a room is loaded before its files, and imports some of them; as a part of a
    circle it does not count."""
    graph = {name: (imports(path) & set(modules())) - {name} for name, path in modules().items()}
    rooms = {name for name, path in modules().items() if path.name == "__init__.py"}
    graphlib.TopologicalSorter(
        {name: of - rooms for name, of in graph.items()}
    ).prepare()  # CycleError names the circle


# `package` is not among them: what lies inside a package is told by its picture, and the picture by
# what lies inside.
@pytest.mark.parametrize("part", ["runtime", "serve", "plan", "graph", "export"])
def test_no_circles_among_rooms(part):
    """Each room inside a part as one node, whatever is in it: what stands lower knows nothing of
    what stands higher."""
    prefix = f"mpsplit.{part}."
    inside = sorted(path.name for path in (ROOT / part).iterdir() if (path / "__init__.py").exists())
    assert inside
    graph = {room: set() for room in inside}
    for name, path in modules().items():
        room = name.removeprefix(prefix).split(".")[0]
        if name.startswith(prefix) and room in graph:
            others = {other.removeprefix(prefix).split(".")[0] for other in imports(path) if other.startswith(prefix)}
            graph[room] |= others & graph.keys() - {room}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def rooms():
    return sorted(path.parent for path in modules().values() if path.name == "__init__.py" and path.parent != ROOT)


@pytest.mark.parametrize("room", rooms(), ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_tells_what_is_in_it(room):
    """One line of why, then every file and every room inside; commands stand in a table of
    cli.py."""
    said = (room / "__init__.py").read_text(encoding="utf-8")
    inside = [path for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    if room.name in ("commands", "families"):  # a file a command, a file a family
        return
    assert len(inside) <= CROWD, f"{room} has {len(inside)} files"
    for path in inside:
        assert path.stem.startswith("__") or path.stem in said, f"{room}/__init__.py does not name {path.stem}"


def test_a_name_stands_once():
    """But for a command beside what it starts."""
    names = {}
    for path in modules().values():
        if not path.stem.startswith("__") and path.parent.name != "commands":
            assert path.stem not in names, f"{path} and {names[path.stem]}: rename one"
            names[path.stem] = path


def test_tests_share_nothing_but_what_stands_apart():
    """What two test files need is in a file of its own; a conftest holds fixtures and hooks."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        borrowed = [name for name in imports(path) if name.startswith("tests.")]
        assert not [name for name in borrowed if ".test_" in name or "conftest" in name], path


def texts_of(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_a_program_in_a_text_imports_what_is_there():
    """What tests hand to `python -c`, and examples in docstrings: no other check follows a rename
    into them."""
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *ROOT.rglob("*.py")]):
        for text in texts_of(path):
            for module, names in re.findall(r"\bfrom (mpsplit[\w.]*) import ([\w, ]+)", text):
                assert module in modules(), f"{path}: there is no {module}"
                source = modules()[module].read_text(encoding="utf-8")
                for name in (words.split()[0] for words in names.split(",")):
                    here = f"{module}.{name}" in modules() or re.search(rf"\b{name}\b", source)
                    assert here, f"{path}: {module} has no {name}"


@pytest.mark.parametrize(
    "loaded, never",
    [
        ("mpsplit.cli", {"torch", "ncnn"}),
        ("mpsplit.cli, mpsplit.export.convert, mpsplit.export.graph.pnnx", {"torch"}),
        ("mpsplit.cli, mpsplit.runtime.load, mpsplit.serve.chat, mpsplit.serve.http.serving", {"torch"}),
    ],
)
def test_what_is_never_loaded(loaded, never):
    """--help waits for no engine; torch takes more memory than all the rest, which would bound a
    rank's conversion."""
    program = f"import sys, {loaded}; sys.exit(' '.join({never} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
