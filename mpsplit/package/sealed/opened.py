"""A package's files, ready to be read, encrypted or not.

In: a package, its manifest, where the key is. Out: a folder, or bytes.

Plain bytes of an encrypted package are in memory only: each file is decrypted into a memfd, and the
folder holds links to these. Invariant: when the block ends, however it ends, the folder is gone and
the descriptors are closed; what was mapped stays with who mapped it, and nothing else stays.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.checked.graph_check import check_graphs
from mpsplit.package.manifest import FUSED, GRAPH, File, Manifest, rank_folder
from mpsplit.package.param_text import REMEDY, Param
from mpsplit.package.sealed.keys import KeySource
from mpsplit.package.sealed.vault import Vault
from mpsplit.package.stored.embedding import HEAD_ROWS, stored_row
from mpsplit.package.stored.embedding_rows import head_of
from mpsplit.package.stored.weight_files import WeightFiles, size_of
from mpsplit.package.whole_files import read_text
from mpsplit.plan.cuts import one_matrix

ENVIRONMENT = KeySource()


def vault_of(package: Path, manifest: Manifest, keys: KeySource) -> Vault | None:
    """What opens the package; None where it is not encrypted."""
    if manifest.sealed:
        return manifest.vault(package, keys.find())
    demand_sealed(package, manifest, keys)
    return None


def demand_sealed(package: Path, manifest: Manifest, keys: KeySource = ENVIRONMENT) -> None:
    if not manifest.sealed:
        demand_no_key(package, keys, "seal it with `mpsplit encrypt`, or ")


def demand_no_key(package: Path, keys: KeySource, remedy: str = "") -> None:
    """Who has a key trusts what it protects: a plain package in its place is another one."""
    if source := keys.configured:
        raise PackageError(
            f"a key is configured, and this package is not sealed; {package} is plain, {source} names a key: "
            f"{remedy}take {source} away if it may be plain"
        )


@contextmanager
def opened(package: Path, manifest: Manifest, files: Iterable[File], keys: KeySource = ENVIRONMENT) -> Iterator[Path]:
    """A folder with these files of the package, plain: the package itself, or one that lives as
    long as the block."""
    vault = vault_of(package, manifest, keys)
    if vault is None:
        yield package
        return
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # a core file would have the weights
    with tempfile.TemporaryDirectory(prefix="mpsplit-") as name, ExitStack() as descriptors:
        folder = Path(name)
        for file in files:
            # sealable: engine/mapped_files.cpp
            memory = os.memfd_create(file.path, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            descriptors.callback(os.close, memory)
            _decrypt(package / file.path, vault, file.path, memory)
            link = folder / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
        yield folder


@contextmanager
def opened_rank(package: Path, manifest: Manifest, rank: int, keys: KeySource = ENVIRONMENT) -> Iterator[Path]:
    """As above, with the files of a rank, whose graphs were looked over."""
    manifest.demand_ncnn(package)
    files = manifest.ranks[rank].files
    with opened(package, manifest, files, keys) as folder:
        its_folder = rank_folder(folder, rank)
        weights, listed = WeightFiles.load(its_folder), {folder / file.path for file in files}
        for name in weights.names:
            if its_folder / name not in listed:
                raise PackageError(f"{its_folder / name} is not in the manifest; run `mpsplit convert {package}` again")
        check_graphs(its_folder, weights, manifest, rank)
        _check_embedding(manifest, rank, its_folder, weights)
        yield folder


def _check_embedding(manifest: Manifest, rank: int, folder: Path, weights: WeightFiles) -> None:
    shard, width = manifest.plan.shards[rank], stored_row(manifest.dtype, manifest.facts.hidden)
    size = size_of(folder / weights.embedding) if weights.embedding else 0
    if shard.stage == 0 and size != len(shard.embed) * width:
        raise PackageError(
            f"the embedding of rank {rank} has {size} bytes, {len(shard.embed)} rows take {len(shard.embed) * width};"
            f" {REMEDY}"
        )
    if manifest.dtype == HEAD_ROWS:
        if not one_matrix(manifest.plan, manifest.facts):
            raise PackageError(
                f"the head is said to be the embedding too, and is not tied or not divided like it; {REMEDY}"
            )
        for name in (GRAPH, FUSED) if len(shard.head) else ():
            try:
                head_of(Param.load(folder / name), len(shard.head), manifest.facts.hidden)
            except PackageError as wrong:
                raise PackageError(f"{folder / name} is damaged ({wrong}); {REMEDY}") from None


def text_of(package: Path, manifest: Manifest, path: str, keys: KeySource = ENVIRONMENT) -> str:
    """The text of one file."""
    vault = vault_of(package, manifest, keys)
    if vault is None:
        return read_text(package / path, REMEDY)
    with vault.open(package / path, path) as file:
        return file.read().decode()


def graph_of(package: Path, manifest: Manifest, rank: int, keys: KeySource = ENVIRONMENT) -> Param:
    """What the rank computes, as convert made it."""
    manifest.demand_ncnn(package)
    path = rank_folder(package, rank) / GRAPH
    return Param.parse(text_of(package, manifest, path.relative_to(package).as_posix(), keys))


def authenticate(package: Path, manifest: Manifest, keys: KeySource) -> None:
    """Every chunk of every file is what was encrypted with this key."""
    if vault := vault_of(package, manifest, keys):
        for file in manifest.files:
            with vault.open(package / file.path, file.path) as sealed:
                for _ in sealed.pieces():
                    pass


def _decrypt(path: Path, vault: Vault, name: str, memory: int) -> None:
    with vault.open(path, name) as sealed:
        try:
            # no memory is an error here, not a signal later
            os.posix_fallocate(memory, 0, max(1, sealed.size))
            os.ftruncate(memory, sealed.size)
            for number, piece in enumerate(sealed.pieces()):
                os.pwrite(memory, piece, number * sealed.chunk)
        except OSError as wrong:
            raise PackageError(
                f"{path} takes {sealed.size:,} bytes of memory to decrypt ({wrong.strerror}); free some"
            ) from None
