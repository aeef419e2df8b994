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
}
FORBIDDEN = {
    "plan": {"torch", "transformers", "ncnn"},
    "package": {"torch", "transformers", "ncnn", "mpi4py"},
    "export": {"ncnn"},
    "runtime": {"torch", "transformers", "safetensors"},
    "serve": {"torch", "transformers", "ncnn", "numpy"},
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


def test_converting_loads_without_torch():
    program = "import sys, mpsplit.cli, mpsplit.export.convert, mpsplit.export.pnnx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_run_half_loads_without_torch():
    program = "import sys, mpsplit.cli, mpsplit.runtime.load, mpsplit.serve.chat, mpsplit.serve.running; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_conversion_loads_without_torch():
    """Its memory is what bounds a rank's: torch takes more than all the rest."""
    program = "import sys, mpsplit.cli, mpsplit.export.convert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
