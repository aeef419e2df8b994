"""Builds of extensions/ beside the one that launch/setup made."""

from __future__ import annotations

import subprocess
from pathlib import Path

EXTENSIONS = Path(__file__).parents[2] / "extensions"


def build(folder: Path, target: str, *options: str) -> Path:
    for command in (
        ["cmake", "-S", EXTENSIONS, "-B", folder, *options],
        ["cmake", "--build", folder, "-j2", "-t", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
    return folder
