"""Random graphs in the engine's arena: no two blobs of one step overlap (arena_test.cpp)."""

import subprocess
import sys

from mpsplit.cache_folder import cache
from mpsplit.native import cpp
from tests.extensions.builds import build
from tests.missing import need


def test_no_blobs_overlap(build_folder):
    need("cmake", "the engine")
    ncnn = cache() / f"ncnn-{cpp.ncnn_key()}" / "lib" / "cmake" / "ncnn"
    options = (f"-DPython_EXECUTABLE={sys.executable}", f"-Dncnn_DIR={ncnn}")
    program = build(build_folder / "arena", "arena_test", *options) / "engine" / "arena_test"
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("nothing overlaps\n", 0)
