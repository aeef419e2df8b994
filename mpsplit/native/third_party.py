"""What is built from elsewhere: fetched from the package index, checked against the pin in
third_party/, unpacked in the cache.

In: a name. Out: the folder of its sources. Invariant: nothing is unpacked that does not have the
sha256 of the pin.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mpsplit import leash
from mpsplit.errors import MpsplitError
from mpsplit.package.whole_files import sha256

PINS = Path(__file__).parents[2] / "third_party"


class FetchError(MpsplitError):
    """The sources could not be had."""


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    sha256: str

    @classmethod
    def of(cls, name: str) -> Pin:
        path = PINS / name / "pin"
        pin = re.fullmatch(r"(\S+) (\S+) sha256:([0-9a-f]{64})\s*", path.read_text(encoding="utf-8"))
        if not pin:
            raise FetchError(f"{path} is no pin; it holds one line: NAME VERSION sha256:HASH")
        return cls(*pin.groups())


def sources(name: str, cache: Path, part: str = "") -> Path:
    """The unpacked archive, or a part of it, fetched when it is not there yet."""
    pin = Pin.of(name)
    unpacked = cache / "sources" / f"{pin.name}-{pin.version}-{pin.sha256[:8]}"
    if unpacked.is_dir():
        return unpacked
    unpacked.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=unpacked.parent) as partial:
        with tarfile.open(_fetch(pin, Path(partial))) as archive:
            members = [entry for entry in archive if entry.name.partition("/")[2].startswith(part)]
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.2 has none
            archive.extractall(Path(partial) / "all", members)
        (top,) = (Path(partial) / "all").iterdir()
        try:
            os.rename(top, unpacked)
        except OSError:  # another process was faster
            if not unpacked.is_dir():
                raise
    return unpacked


def _fetch(pin: Pin, folder: Path) -> Path:
    wanted = f"{pin.name}=={pin.version}"
    command = [sys.executable, "-m", "unearth", "--no-binary", *_index(), "--download", str(folder), wanted]
    done = leash.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        last_line = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise FetchError(f"the sources of {wanted} cannot be fetched ({last_line}); is the package index in reach?")
    if (digest := sha256(archives[0])) != pin.sha256:
        raise FetchError(
            f"the sources of {wanted} have sha256 {digest}, the pin says {pin.sha256}; nothing was unpacked"
        )
    return archives[0]


def _index() -> list[str]:
    """pip's own choice of index, which unearth does not know of."""
    configuration = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings = dict(re.findall(r"^(?:global|install|:env:)\.(index-url)='(.*)'$", configuration, re.MULTILINE))
    return ["--index-url", settings["index-url"]] if settings else []
