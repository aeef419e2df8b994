"""Conversion that is interrupted, repeated, moved, or short of room: the same bytes, or one line
that says why not."""

import json
import os
import random
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError, ModelError
from mpsplit.export import convert as converting
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.model_origin import Origin
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.export.weights import weight_stream
from mpsplit.export.weights.encode import Encoder
from mpsplit.export.weights.weight_contents import Array
from mpsplit.native import cpp
from mpsplit.package.manifest import GRAPH, MANIFEST, PARTITION, Manifest
from mpsplit.package.stored.quantisation import FLOAT, Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import Part
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range, even_plan
from tests.missing import need
from tests.models import make_model
from tests.packages import digests, partition_evenly, weight_path
from tests.running import killed_after

QUANTISED = cpp.kernels(required=False) is not None
HOW = Quantisation(4, 32) if QUANTISED else FLOAT
KILLS = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    changes = dict(hidden_size=128, intermediate_size=256, vocab_size=1000)
    return make_model("llama-bias", tmp_path_factory.mktemp("resume") / "model", "float16", changes)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A package of two ranks, made at one go."""
    out = tmp_path_factory.mktemp("resume") / "package"
    partition_evenly(model, out, 2, 1)
    convert(out, Alone(), find_pnnx(), Recipe(HOW))
    return out


@pytest.fixture
def partitioned(whole, tmp_path):
    """The same before it was converted."""
    out = shutil.copytree(whole, tmp_path / whole.name)
    (out / MANIFEST).unlink()
    for rank in (0, 1):
        for name in ("model.param", "fused.param", "rank.txt"):
            (out / f"rank-{rank}" / name).unlink()
        shutil.rmtree(out / f"rank-{rank}" / "weights")
    return out


@pytest.fixture
def made_graphs(partitioned, monkeypatch):
    """pnnx runs once for all the conversions of a test."""
    told = Manifest.load(partitioned, PARTITION)
    graphs = [converting.make_graphs(told, partitioned, rank, find_pnnx(), Recipe(HOW)) for rank in (0, 1)]
    monkeypatch.setattr(converting, "make_graphs", lambda told, package, rank, pnnx, how, readable: graphs[rank])


@pytest.mark.seconds(400)
def test_killed_at_any_moment_and_started_again_it_makes_the_same_bytes(
    whole, partitioned, made_graphs, tmp_path, monkeypatch
):
    """In children of this process, that it kills; pieces are small and slow here, so that there are
    many moments."""
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 14)
    write = weight_stream._Continued.write
    monkeypatch.setattr(weight_stream._Continued, "write", lambda *given: (write(*given), time.sleep(0.003)))
    pristine = shutil.copytree(partitioned, tmp_path / "pristine")
    began = time.monotonic()
    convert(partitioned, Alone(), find_pnnx(), Recipe(HOW))
    takes = time.monotonic() - began
    assert digests(partitioned) == digests(whole)
    chance, killed = random.Random(0), 0
    for _ in range(KILLS // 5):
        shutil.rmtree(partitioned)
        shutil.copytree(pristine, partitioned)
        for _ in range(5):
            killed += killed_after(
                chance.uniform(0, takes / 2), lambda: convert(partitioned, Alone(), find_pnnx(), Recipe(HOW))
            )
        convert(partitioned, Alone(), find_pnnx(), Recipe(HOW))
        assert digests(partitioned) == digests(whole)
        assert not list(partitioned.glob("rank-*/**/.*.partial"))
    assert killed > KILLS // 3  # others were done before


def test_what_is_there_is_not_read_again(whole, partitioned, made_graphs, monkeypatch):
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 14)
    first = convert(partitioned, Alone(), find_pnnx(), Recipe(HOW)).read
    assert first == tuple(part.weight_bytes for part in Manifest.load(partitioned).ranks)
    assert convert(partitioned, Alone(), find_pnnx(), Recipe(HOW)).read == (0, 0)
    path = weight_path(partitioned / "rank-1")
    data = path.read_bytes()
    # what was damaged is made again, and nothing else
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again = convert(partitioned, Alone(), find_pnnx(), Recipe(HOW)).read
    assert again[0] == 0 and 0 < again[1] <= (len(data) // 2 if QUANTISED else first[1])
    assert digests(partitioned) == digests(whole)


@pytest.mark.parametrize("kind, bits", [("packed", 4), ("packed", 8), ("float", 0), ("own", 0)])
def test_every_piece_can_be_made_alone(model, tmp_path, monkeypatch, kind, bits):
    if bits:
        need("the kernels")
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 10)
    monkeypatch.setattr("mpsplit.export.weights.weight_contents.ROWS_AT_ONCE", 32 * 64 * 4)
    checkpoint = Checkpoint(model)
    # no multiple of a panel
    name, part = "model.layers.0.mlp.gate_proj.weight", Part(0, Range(13, 200))
    rows = checkpoint.stored(name, part) if kind == "own" else checkpoint.floats(name, part)
    data = cpp.kernels().pack(rows, bits, 32) if bits else rows
    encoder = Encoder(Quantisation(bits, 32))
    array = Array(name, part, rows.shape, kind, data.nbytes, encoder, b"flag", 3)
    assert len(list(array.pieces())) > 3
    tell = lambda name, count: None  # noqa: E731
    made = tmp_path / "a"
    address = weight_stream.write(made, [array], checkpoint, tell)
    expected = b"flag" + data.tobytes() + bytes(3)
    assert made.read_bytes() == expected
    for cut in np.linspace(0, len(expected), 23, dtype=int):
        kept = int(max(0, cut - 1) // 1024 * 1024)
        made.write_bytes(expected[:kept] + b"x" * (cut - kept))  # the last piece may be anything
        assert (
            weight_stream.write(made, [array], checkpoint, tell)
            == address
            == weight_stream.address_of([array], checkpoint)
        )
        assert made.read_bytes() == expected


def test_a_model_that_has_gone_moved_or_changed(model, partitioned, tmp_path, made_graphs):
    assert Origin.load(partitioned).folder == model
    moved = shutil.copytree(model, tmp_path / "moved")
    path = partitioned / PARTITION
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"origin": told["origin"] | {"folder": "/no/such/place"}}))
    with pytest.raises(ModelError, match="no longer at /no/such/place; say where it is with --model DIR"):
        convert(partitioned, Alone(), find_pnnx(), Recipe(HOW))
    convert(partitioned, Alone(), find_pnnx(), Recipe(HOW), moved)
    os.utime(moved / "model.safetensors", (1, 1))
    path.write_text(json.dumps(told | {"origin": told["origin"] | {"folder": str(moved)}}))
    with pytest.raises(ModelError, match="model.safetensors was written to since it was partitioned"):
        convert(partitioned, Alone(), find_pnnx(), Recipe(HOW))
    other = make_model("llama", tmp_path / "other")
    with pytest.raises(ModelError, match="is not the model that was partitioned: 1 of its files differ"):
        convert(partitioned, Alone(), find_pnnx(), Recipe(HOW), other)


def test_without_room_the_old_package_stays(whole, tmp_path, monkeypatch):
    package = shutil.copytree(whole, tmp_path / "p")
    before = digests(package)
    usage = namedtuple("Usage", "total used free")(10**9, 10**9, 12345)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConvertError, match=r"need [\d,]{6,} bytes more in .*, where 12,345 are free; make room"):
        convert(package, Alone(), find_pnnx(), Recipe(FLOAT if HOW.bits else Quantisation(8, 32)))
    assert digests(package) == before


def test_the_structure_alone(model, whole, tmp_path):
    """A config traces and converts without weights; with --model they follow, and the package is
    the same."""
    bare, out = tmp_path / "model", tmp_path / whole.name
    bare.mkdir()
    shutil.copy(model / "config.json", bare)
    facts = ModelFacts.from_config(read_config(bare))
    told = partition(bare, even_plan(facts, 2, 1), out, Alone(), structure_only=True)
    assert [part.weight_bytes for part in told.ranks] == [part.weight_bytes for part in Manifest.load(whole).ranks]
    assert convert(out, Alone(), find_pnnx(), Recipe(HOW)).manifest is None
    for rank in (0, 1):
        assert (out / f"rank-{rank}" / GRAPH).read_text() == (whole / f"rank-{rank}" / GRAPH).read_text()
        assert not (out / f"rank-{rank}" / "weights").exists() and not (out / MANIFEST).exists()
    convert(out, Alone(), find_pnnx(), Recipe(HOW), model)
    have, want = digests(out), digests(whole)
    assert {n: h for n, h in have.items() if n.startswith("rank")} == {
        n: h for n, h in want.items() if n.startswith("rank")
    }
