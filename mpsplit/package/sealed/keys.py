"""The user's key: 32 bytes from a file, the environment or a command.

In: where to look. Out: a Key, from which all others are derived.

Invariant: the key itself is neither shown, nor stored, nor used on data; HKDF derives a key for
each purpose and file.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mpsplit import leash
from mpsplit.errors import PackageError

BYTES = 32
VARIABLE, COMMAND = "MPSPLIT_KEY", "MPSPLIT_KEY_COMMAND"
SECONDS = 60  # for the command, which may ask somebody
LONGEST = 4096  # bytes that are read of a key file: enough to see that it is none
MAKE_ONE = "a key is 32 bytes or 64 hex digits; make one with `openssl rand -hex 32 > KEY`"
HEX = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True)
class Key:
    secret: bytes = field(repr=False)

    def derive(self, purpose: str, salt: bytes = b"", about: bytes = b"") -> bytes:
        """32 bytes for this purpose alone."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"mpsplit " + purpose.encode() + b"\0" + about
        return HKDF(algorithm=SHA256(), length=BYTES, salt=salt or None, info=info).derive(self.secret)

    @cached_property
    def name(self) -> str:
        """Tells keys apart, and nothing of them."""
        return self.derive("name").hex()[:32]

    @classmethod
    def parse(cls, data: bytes, source: str) -> Key:
        text = data.strip()
        if len(text) == 2 * BYTES and HEX.issuperset(text):
            return cls(bytes.fromhex(text.decode()))
        # 32 hex digits would be a key of half the length
        if len(data) == BYTES and not HEX.issuperset(data):
            return cls(data)
        raise PackageError(f"{source} holds {len(data)} bytes, which are no key; {MAKE_ONE}")


@dataclass(frozen=True)
class KeySource:
    """Where a key is looked for: what the command line says, else the environment."""

    file: str | None = None
    command: str | None = None

    @property
    def asked(self) -> bool:
        """Whether the user said on the command line that there is a key."""
        return bool(self.file or self.command)

    @property
    def configured(self) -> str:
        """What says that there is a key, the command line or the environment; empty when
        nothing does."""
        given = {"--key-file": self.file, "--key-command": self.command}
        given |= {name: os.environ.get(name) for name in (VARIABLE, COMMAND)}
        return next((name for name, value in given.items() if value), "")

    def find(self) -> Key:
        if self.file and self.command:
            raise PackageError("--key-file and --key-command both name a key; give one of them")
        if self.file:
            return _from_file(Path(self.file))
        if self.command:
            return _from_command(self.command, "--key-command")
        if value := os.environ.get(VARIABLE):
            return Key.parse(value.encode(errors="surrogateescape"), VARIABLE)
        if value := os.environ.get(COMMAND):
            return _from_command(value, COMMAND)
        raise PackageError(f"no key was given; use --key-file FILE or --key-command COMMAND, or set {VARIABLE}")


def _from_file(path: Path) -> Key:
    try:
        with open(path, "rb") as file:
            return Key.parse(file.read(LONGEST), str(path))
    except OSError as wrong:
        raise PackageError(f"the key file {path} cannot be read here ({wrong.strerror}); {MAKE_ONE}") from None


@functools.cache  # a command may ask somebody, who is asked once
def _from_command(command: str, source: str) -> Key:
    try:
        pipe = subprocess.PIPE
        done = leash.run(shlex.split(command), SECONDS, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    except (OSError, ValueError, IndexError) as wrong:
        raise PackageError(f"{source} {command!r} cannot be started ({wrong}); it must print the key") from None
    except subprocess.TimeoutExpired:
        raise PackageError(f"{source} {command!r} gave no key in {SECONDS} s; it must print it and end") from None
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split())[:200] or "and said nothing"
        raise PackageError(f"{source} {command!r} ended with {done.returncode} ({words}); it must print the key")
    return Key.parse(done.stdout, f"the output of {source}")
