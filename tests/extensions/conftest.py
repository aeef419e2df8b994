"""Builds extensions once a session, into $MPSPLIT_CACHE when it is set; skips with the name of what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    return Path(os.environ.get("MPSPLIT_CACHE") or tmp_path_factory.mktemp("extensions"))


@pytest.fixture(scope="session")
def kernels(build_folder):
    need("cmake", os.environ.get("CXX", "c++"))
    pytest.importorskip("nanobind")
    sys.path.insert(0, str(build(build_folder / "host", "_kernels", f"-DPython_EXECUTABLE={sys.executable}")))
    import _kernels

    return _kernels
