"""What a conversion writes beside the weights: graphs and facts of the ranks, and what all share.

In: a rank's graphs, a partition, maybe a Vault. Out: texts as bytes, and with `commit` the files.

Invariant: they lie in .next/ of the package until every rank has everything; then all take their
places at once (package_commit.py). With a Vault no plain byte of them touches the disk.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError
from mpsplit.export.graph.rank_graphs import Graphs
from mpsplit.package.json_fields import mapping, text
from mpsplit.package.manifest import FUSED, GRAPH, MANIFEST, RANK_TEXT, File, Manifest, rank_folder
from mpsplit.package.manifest_fields import PATH
from mpsplit.package.sealed.vault import MAGIC, Vault
from mpsplit.package.stored.weight_files import FOLDER
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.package.together.package_commit import NEXT, sync_below
from mpsplit.package.together.package_commit import commit as put_in_place
from mpsplit.package.whole_files import beside, json_text, synced

Texts = dict[str, bytes]  # by path in the package, as they will be on the disk


def rank_texts(rank: int, graphs: Graphs, vault: Vault | None, facts: str | None = None) -> Texts:
    """`facts`: what a rank without Python must know (rank_text.py); None where there are no
    weights."""
    texts = {GRAPH: str(graphs.param), FUSED: str(graphs.fused)} | ({RANK_TEXT: facts} if facts else {})
    paths = {(rank_folder(Path(), rank) / name).as_posix(): text.encode() for name, text in texts.items()}
    return {name: _sealed(vault, name, data) for name, data in paths.items()} if vault else paths


def shared_texts(package: Path, partition: Manifest, comm: Communicator, vault: Vault | None) -> Texts | None:
    """The files that belong to no rank, sealed; None where they stay what partition made them."""
    shared: Texts = {}
    for path in (package / file.path for file in partition.shared if comm.rank == 0):
        if not path.is_file():
            raise ConvertError(f"{path} is missing; run `mpsplit partition` again")
        name, data = path.relative_to(package).as_posix(), path.read_bytes()
        if data.startswith(MAGIC):
            if not vault:
                raise ConvertError(f"{path} is encrypted; convert with --encrypt and its key, or partition again")
            with vault.open(path, name):  # an error where another key sealed it
                shared[name] = data
        elif vault:
            shared[name] = _sealed(vault, name, data)
    if not vault:
        return None
    in_letters = {name: base64.b64encode(data).decode() for name, data in shared.items()}
    return of_rank_0(comm, in_letters, _shared_of_rank_0)


def _shared_of_rank_0(in_letters: dict[str, str]) -> Texts:
    mapping(text(r"[A-Za-z0-9+/=]*", "bytes in base64"), 4096)(in_letters, "what belongs to no rank")
    for name in in_letters:
        PATH(name, "a path")
    return {name: base64.b64decode(data) for name, data in in_letters.items()}


def listed(texts: Texts) -> tuple[File, ...]:
    """For the manifest."""
    return tuple(File(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in texts.items())


def commit(package: Path, comm: Communicator, manifest: Manifest, texts: Texts, shared: Texts | None) -> None:
    """The texts of this process's ranks and, on each host, what all share and the manifest."""
    if comm.host_lead:
        texts = texts | (shared or {}) | {MANIFEST: json_text(manifest.to_json()).encode()}
    for name, data in texts.items():
        path = package / NEXT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(data)
    sync_below(package / NEXT)
    for folder in {(package / name).parent for name in texts}:
        if (folder / FOLDER).is_dir():
            synced(folder / FOLDER)
            synced(folder)
    comm.exchange(None)  # everybody has everything
    if comm.host_lead:
        put_in_place(package)
    comm.exchange(None)


@contextmanager
def texts_beside(package: Path, texts: Texts) -> Iterator[None]:
    """They lie beside their places, and take them when the block ends well."""
    with ExitStack() as places:
        for name, data in texts.items():
            places.enter_context(beside(package / name)).write_bytes(data)
        yield


def _sealed(vault: Vault, name: str, data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sealed")
        with vault.create(path, name) as file:
            file.write(data)
        return path.read_bytes()
