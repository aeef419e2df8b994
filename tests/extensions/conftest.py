"""The kernels as launch/setup built them, and builds for other machines; skips with the name of
what is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mpsplit.native import cpp

EXTENSIONS = Path(__file__).parents[2] / "extensions"


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def build(folder: Path, target: str, *options: str) -> Path:
    for command in (
        ["cmake", "-S", EXTENSIONS, "-B", folder, *options],
        ["cmake", "--build", folder, "-j2", "-t", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="session")
def kernels():
    built = cpp.kernels(required=False)
    if built is None:
        pytest.skip("the kernels are not built: no C++ compiler, cmake or nanobind")
    return built
