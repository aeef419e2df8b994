"""One process at a time writes into a folder, and another one is told who it is."""

import os
import subprocess
import sys

import pytest

from mpsplit.package.together.folder_lock import FolderLock, InUse

HOLDER = """
import sys
from pathlib import Path
from mpsplit.package.together.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_who_has_it_is_told_until_that_process_ends(tmp_path):
    folder = tmp_path / "a" / "b"
    command = [sys.executable, "-c", HOLDER, folder]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=f"process {holder.pid} on .* writes there"):
            FolderLock(folder)
    finally:
        holder.kill()
        holder.communicate()
    lock = FolderLock(folder)
    with pytest.raises(InUse, match=f"process {os.getpid()} on "):
        FolderLock(folder)
    lock.release()
    FolderLock(folder).release()
