"""The engine's threads by themselves, under the thread sanitizer: thread_pool_test.cpp."""

import subprocess

from mpsplit.native import cpp
from tests.extensions.builds import EXTENSIONS
from tests.missing import needs


@needs("cmake")
def test_every_part_is_done_once(tmp_path):
    kernels, program = EXTENSIONS / "kernels", tmp_path / "thread_pool_test"
    sources = [kernels / "thread_pool.cpp", kernels / "thread_pool_test.cpp"]
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread"]
    subprocess.run([cpp.compiler(), *flags, "-o", program, *sources], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("every part once\n", 0), done.stderr[-3000:]
