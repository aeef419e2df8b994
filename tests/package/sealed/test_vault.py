import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsplit.errors import PackageError
from mpsplit.package.sealed import keys
from mpsplit.package.sealed.keys import Key, KeySource
from mpsplit.package.sealed.vault import ALGORITHMS, HEADER, LARGEST_CHUNK, TAG, Vault, sealed_size
from mpsplit.package.stored.float_weights import PackedFile

KEY = Key(bytes(range(32)))
CHUNK = 32
PLAIN = bytes(range(100))  # four chunks, the last of 4 bytes


@pytest.fixture
def vault():
    return Vault.new(KEY, chunk=CHUNK)


@pytest.fixture
def sealed(vault, tmp_path):
    with vault.create(tmp_path / "f", "rank-0/f") as file:
        file.write(PLAIN)
    return tmp_path / "f"


def chunks(path) -> tuple[bytes, list[bytes]]:
    data, step = path.read_bytes(), CHUNK + TAG
    return data[: HEADER.size], [data[i : i + step] for i in range(HEADER.size, len(data), step)]


def refused(vault, path, name="rank-0/f"):
    with pytest.raises(PackageError, match=path.name), vault.open(path, name) as file:
        file.read()


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=200), max_size=6),
    chunk=st.sampled_from((1, 7, 64, 1 << 20)),
    algorithm=st.sampled_from(sorted(ALGORITHMS)),
    where=st.tuples(st.integers(0, 1300), st.integers(0, 1300)),
)
def test_round_trip(pieces, chunk, algorithm, where, tmp_path_factory):
    path, whole = tmp_path_factory.getbasetemp() / "round", b"".join(pieces)
    vault = Vault.new(KEY, chunk=chunk, algorithm=algorithm)
    with vault.create(path, "x") as file:
        assert [file.write(piece) for piece in pieces] == list(map(len, pieces))
        assert file.tell() == len(whole)
    assert path.stat().st_size == sealed_size(len(whole), chunk)
    with vault.open(path, "x") as file:
        buffer = bytearray(len(whole))
        file.read_into(buffer)
        offset, size = where
        assert file.size == len(whole) and file.read() == whole == bytes(buffer) == b"".join(file.pieces())
        assert file.read(offset, size) == whole[offset : offset + size]


def test_every_flipped_bit_and_every_length_is_noticed(vault, sealed):
    whole = sealed.read_bytes()
    for i in range(len(whole)):
        for bit in (1, 128):
            data = bytearray(whole)
            data[i] ^= bit
            sealed.write_bytes(data)
            refused(vault, sealed)
    for size in range(len(whole)):
        sealed.write_bytes(whole[:size])
        refused(vault, sealed)
    for more in (b"\0", whole[-20:], whole[HEADER.size :], whole):
        sealed.write_bytes(whole + more)
        refused(vault, sealed)


@pytest.mark.parametrize(
    "order", [(1, 0, 2, 3), (0, 1, 3), (1, 2, 3), (0, 1, 2), (0, 1, 1, 2, 3), (0, 1, 2, 3, 3), (3,), ()]
)
def test_chunks_have_their_place(vault, sealed, order):
    header, found = chunks(sealed)
    assert len(found) == 4
    sealed.write_bytes(header + b"".join(found[i] for i in order))
    refused(vault, sealed)


def test_files_have_their_place(vault, sealed, tmp_path):
    refused(vault, sealed, "rank-1/f")  # moved within its package
    refused(Vault.new(KEY, chunk=CHUNK), sealed)  # taken from another package
    refused(Vault(Key(bytes(32)), vault.package, chunk=CHUNK), sealed)
    with vault.create(tmp_path / "again", "rank-0/f") as file:
        file.write(PLAIN)
    (header, mine), (_, others) = chunks(sealed), chunks(tmp_path / "again")
    assert not set(mine) & set(others), "the same bytes are never sealed alike"
    sealed.write_bytes(header + mine[0] + others[1] + mine[2] + mine[3])
    refused(vault, sealed)


def test_an_absurd_chunk_size_allocates_nothing(vault, sealed):
    data = bytearray(sealed.read_bytes())
    for chunk in (0, LARGEST_CHUNK, LARGEST_CHUNK + 1, 2**32 - 1):
        struct.pack_into("<I", data, 12, chunk)
        sealed.write_bytes(data)
        refused(vault, sealed)


def test_a_writer_that_fails_leaves_no_file_that_can_be_read(vault, tmp_path):
    with pytest.raises(ZeroDivisionError), vault.create(tmp_path / "f", "rank-0/f") as file:
        file.write(PLAIN)
        raise ZeroDivisionError
    refused(vault, tmp_path / "f")


def test_packed_files_can_be_written_sealed(vault, tmp_path):
    arrays = [np.arange(n, dtype=np.uint8) for n in (64, 1, 100)]
    (tmp_path / "rank-0").mkdir()
    paths = (tmp_path / "rank-0" / "plain", tmp_path / "rank-0" / "sealed")
    with PackedFile(paths[0]) as plain, PackedFile(paths[1], vault.creator(tmp_path)) as sealed:
        assert [plain.append(a) for a in arrays] == [sealed.append(a) for a in arrays]
    assert bytes(range(40)) not in paths[1].read_bytes()
    with vault.open(paths[1], "rank-0/sealed") as file:
        assert file.read() == paths[0].read_bytes()


def test_where_keys_come_from(tmp_path, monkeypatch):
    raw, text = tmp_path / "raw", tmp_path / "text"
    raw.write_bytes(KEY.secret)
    text.write_text(KEY.secret.hex() + "\n")
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    monkeypatch.delenv(keys.COMMAND, raising=False)
    assert KeySource(str(raw)).find() == KeySource(str(text)).find() == KeySource(command=f"cat '{text}'").find() == KEY
    with pytest.raises(PackageError, match="no key was given; use --key-file"):
        KeySource().find()
    monkeypatch.setenv(keys.COMMAND, f"cat {raw}")
    assert KeySource().find() == KEY
    monkeypatch.setenv(keys.VARIABLE, "ab" * 32)
    assert KeySource().find() == Key(b"\xab" * 32) != KeySource(str(raw)).find()
    assert KEY.secret.hex() not in repr(KEY) and str(KEY.secret) not in repr(KEY)


@pytest.mark.parametrize("data", [b"", b"short", bytes(31), bytes(33), b"ab" * 16, b"xy" * 32, b"ab" * 33])
def test_what_is_no_key(tmp_path, data):
    (tmp_path / "k").write_bytes(data)
    with pytest.raises(PackageError, match=f"k holds {len(data)} bytes, which are no key; a key is 32 bytes"):
        KeySource(str(tmp_path / "k")).find()


@pytest.mark.parametrize(
    "source, told",
    [
        (KeySource("nowhere"), "key file nowhere cannot be read here"),
        (KeySource(os.sep), "cannot be read here"),
        (KeySource(command="false"), "'false' ended with 1"),
        (KeySource(command="no-such-program"), "cannot be started"),
        (KeySource(command="'"), "cannot be started"),
        (KeySource(command=" "), "cannot be started"),
        (KeySource("a", "b"), "both name a key"),
    ],
)
def test_keys_that_cannot_be_had(source, told):
    with pytest.raises(PackageError, match=told):
        source.find()
