"""Where mpsplit keeps what can be made again: built C++, sources of others, which files were found
whole."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    return Path(os.environ.get("MPSPLIT_CACHE") or Path.home() / ".cache" / "mpsplit")
