"""The direction of imports: plan -> export -> package -> runtime -> serve, read from the source with ast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mpsplit"
GROUND = {"cache", "errors", "comm", "native", "progress", "third_party"}  # what every part stands on
# The package is the border: both halves import it, it imports neither, and neither half imports the other.
MAY_IMPORT = {
    "plan": {"plan"},
    "package": {"plan", "package"},
    "export": {"plan", "package", "export"},
    "runtime": {"plan", "package", "runtime"},
    "serve": {"runtime", "serve"},
    "options": {"plan", "package", "export", "runtime", "options", "launch"},  # what commands share knows no command
}
FORBIDDEN = {
    "plan": {"torch", "transformers", "ncnn"},
    "package": {"torch", "transformers", "ncnn", "mpi4py"},
    "export": {"ncnn"},
    "runtime": {"torch", "transformers", "safetensors"},
    "serve": {"torch", "transformers", "ncnn", "numpy"},
    "options": {"torch", "transformers", "ncnn", "numpy"},
}


def imports(path: Path) -> set[str]:
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
            assert words[0] not in FORBIDDEN[part], f"{path.relative_to(ROOT)} imports {name}"
            if words[0] == "mpsplit" and len(words) > 1:
                assert words[1] in MAY_IMPORT[part] | GROUND, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    "loaded, never",
    [
        ("mpsplit.cli", {"torch", "ncnn"}),
        ("mpsplit.cli, mpsplit.export.convert, mpsplit.export.pnnx", {"torch"}),
        ("mpsplit.cli, mpsplit.runtime.load, mpsplit.serve.chat, mpsplit.serve.running", {"torch"}),
    ],
)
def test_what_is_never_loaded(loaded, never):
    """--help waits for no engine; torch takes more memory than all the rest, which would bound a rank's conversion."""
    program = f"import sys, {loaded}; sys.exit(' '.join({never} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
