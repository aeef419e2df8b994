"""Which files were found to have which sha256, so that a warm start does not read them again.

In: a path. Out: its sha256.

Each file has a stamp in ~/.cache/mpsplit/verified (or MPSPLIT_CACHE/verified), outside the package:
a copied package is read once. A stamp holds only for the very file it was made for, unchanged: same
inode, size, times of change. Whoever can write there could as well replace mpsplit itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from mpsplit.cache_folder import cache
from mpsplit.package.whole_files import beside, sha256

# ns: where clocks are coarse, a file that changed just now may change again at the same time
SETTLED = 2 * 10**9


def _stamp(path: Path) -> Path:
    return cache() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def remembered_sha256(path: Path) -> str | None:
    """What the file was found to have, if it was not touched since."""
    # no stamp, a damaged one, no home
    with suppress(OSError, ValueError, TypeError, KeyError, RuntimeError):
        stamp = json.loads(_stamp(path).read_text(encoding="utf-8"))
        return stamp["sha256"] if stamp["identity"] == _identity(path) else None
    return None


def read_sha256(path: Path) -> str:
    """Reads the file, and remembers what it has."""
    before, digest = _identity(path), sha256(path)  # changed meanwhile: its stamp says what it was
    if before[-1] + SETTLED < time.time_ns():
        with suppress(OSError, RuntimeError):  # nowhere to remember it
            stamp = _stamp(path)
            stamp.parent.mkdir(parents=True, exist_ok=True)
            with beside(stamp) as partial:
                record = {"path": str(path), "identity": before, "sha256": digest}
                partial.write_text(json.dumps(record), encoding="utf-8")
    return digest
