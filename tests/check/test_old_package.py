"""A package that version 0.1.0 made (tests/fixtures/README.md): it is read, answers with the tokens
of then, is verified, and today's code makes the same bytes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.partition import partition
from mpsplit.package.manifest import FUSED, GRAPH, Manifest
from mpsplit.package.param_text import Param
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.loops import ENGINES, lead
from tests.missing import needs
from tests.models import EXAMPLE
from tests.packages import digests
from tests.running import mpsplit

OLD = Path(__file__).parents[1] / "fixtures" / "package-0.1"
ANSWERS = [json.loads(line) for line in OLD.with_suffix(".1.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("engine", ENGINES)
def test_its_two_ranks_answer_as_then(world, engine):
    if world.size != 2:
        return  # it is split over two
    loop = load_loop(OLD, world, engine=engine)

    def work():
        for answer in ANSWERS:
            if "prefix" not in answer:
                prompt = tuple(loop.text.chat([{"role": "user", "content": answer["prompt"]}]))
                assert list(loop.generate(Request(prompt, 64)).token_ids) == answer["token_ids"]

    lead(loop, world, work)
    loop.engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_commands_read_it(tmp_path, engine):
    package = shutil.copytree(OLD, tmp_path / "package")
    answer = ANSWERS[-1] if engine == "native" else ANSWERS[0]  # the stock engine keeps nothing on disk
    prefix = ["--prefix", answer["prefix"]] if "prefix" in answer else []
    reply = json.loads(mpsplit("run", package, "--prompt", answer["prompt"], "--engine", engine, "--json", *prefix))
    assert reply["token_ids"] == answer["token_ids"]
    assert reply["stats"]["cached_tokens"] == 0  # the prefix's text is read, its files are of another form


def test_it_is_inspected_and_verified(tmp_path):
    """What was called q4 then is i4 now: its weights are integers."""
    package = shutil.copytree(OLD, tmp_path / "package")
    assert "verified: q4 on native: logits at most 4.11e+00 apart" in mpsplit("inspect", package, "--check")
    assert mpsplit("verify", package, EXAMPLE).startswith(
        f"within the limits of i4: i4 on {ENGINES[0]}: logits at most 4."
    )


def nameless(path):
    """A graph without the names of its layers, which nothing but people reads."""
    return [replace(layer, name="") for layer in Param.load(path).layers]


@needs("the kernels")
def test_today_makes_the_same_bytes(tmp_path):
    """But for numbers in the names of collectives, which pnnx gave then."""
    then, out = Manifest.load(OLD), tmp_path / "package"
    partition(EXAMPLE, then.plan, out, Alone())
    convert(out, Alone(), find_pnnx(), Recipe(Quantisation(4, 32)))
    before, today = digests(OLD), digests(out)
    differ = {name for name in before.keys() | today.keys() if before.get(name) != today.get(name)}
    graphs = {f"rank-{rank}/{graph}" for rank in (0, 1) for graph in (GRAPH, FUSED)}
    assert differ <= {"manifest.json"} | graphs  # the old one says there how it was verified
    assert all(nameless(OLD / graph) == nameless(out / graph) for graph in graphs)
    now = Manifest.load(out)
    then = then.with_files([part.files for part in now.ranks], now.tools)  # made with other versions
    assert replace(then, verified=None) == now
