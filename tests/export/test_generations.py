"""A package that is made anew: the old one is whole until the new one is, whenever it is killed and
whatever cannot be written."""

import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mpsplit.cli import main
from mpsplit.comm import Alone
from mpsplit.errors import ModelError, MpsplitError, PackageError
from mpsplit.export import convert as converting
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.package.manifest import CONFIG, MANIFEST, PARTITION, TOKENIZER_FILES, Manifest
from mpsplit.package.stages.pipeline import STAGES
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together import package_commit
from mpsplit.package.together.package_commit import BESIDE_RANKS, COMMITTED, NEXT
from mpsplit.package.together.package_lock import held
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.placed_plan import PLAN
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.models import make_model
from tests.packages import digests, partition_evenly
from tests.running import killed_after

KILLS = int(os.environ.get("MPSPLIT_TEST_KILLS", "12"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models that answer differently; the other one has three layers as well."""
    folder = tmp_path_factory.mktemp("models")
    return [make_model(family, folder / family) for family in ("llama", "llama-bias")]


def one_rank(model, out, **how):
    plan = even_plan(ModelFacts.from_config(read_config(model)), 1, 1)
    return partition(model, plan, out, Alone(), **how)


@pytest.fixture(scope="module")
def wholes(models, tmp_path_factory):
    """The package of each, made at one go, all under one name."""
    made = []
    for number, model in enumerate(models):
        out = tmp_path_factory.mktemp("whole") / str(number) / "package"
        out.parent.mkdir()
        one_rank(model, out)
        convert(out, Alone(), find_pnnx())
        made.append(out)
    return made


@pytest.fixture(scope="module")
def answers(wholes):
    return [answer(package) for package in wholes]


def answer(package: Path):
    manifest = Manifest.load(package)
    manifest.check_files(package, 0, again=True)
    loop = load_loop(package, Alone(), engine="stock")
    try:
        return loop.generate(Request((1, 2, 3), 6, ignore_eos=True)).token_ids
    finally:
        loop.end()


@pytest.fixture
def replaced(wholes, models, tmp_path):
    """The first package, over which the second model is partitioned, and not yet converted."""
    out = shutil.copytree(wholes[0], tmp_path / "package")
    one_rank(models[1], out, force=True)
    return out


def left_over(package: Path) -> list[str]:
    return sorted(path.name for path in package.rglob(".*"))


def test_a_whole_package_is_replaced_by_force_alone(wholes, models, tmp_path):
    out = shutil.copytree(wholes[0], tmp_path / "package")
    before = digests(out)
    with pytest.raises(
        ModelError, match=r"is a whole package of 1 ranks, made on 20..-.*; give another --out, or --fo"
    ):
        one_rank(models[1], out)
    assert digests(out) == before and left_over(out) == []
    for force in ([], ["--force"]):
        with held(out, "run"):
            said = main(["partition", str(models[1]), "--out", str(out), "--ranks", "1", *force])
        assert said == 2 and digests(out) == before and left_over(out) == []


def test_one_in_use_says_who_uses_it(wholes, models, tmp_path, capsys):
    out = shutil.copytree(wholes[0], tmp_path / "package")
    with held(out, "run"):
        assert main(["partition", str(models[1]), "--out", str(out), "--ranks", "1", "--force"]) == 2
        assert f"{out} is being run by process {os.getpid()} (" in capsys.readouterr().err
        with pytest.raises(PackageError, match="is being run by process"):
            convert(out, Alone(), find_pnnx())
    convert(out, Alone(), find_pnnx())


def test_the_old_package_stays_until_the_new_one_is_whole(replaced, wholes, answers):
    assert digests(replaced) == digests(wholes[0]) and answer(replaced) == answers[0]
    assert Manifest.load(replaced, PARTITION).model == Manifest.load(wholes[0]).model
    for folder in (replaced, replaced / NEXT):
        (folder / ".manifest.json.1.partial").touch()  # of a command that was killed
    convert(replaced, Alone(), find_pnnx())
    assert digests(replaced) == digests(wholes[1]) and answer(replaced) == answers[1]
    assert left_over(replaced) == []
    assert (replaced / CONFIG).read_bytes() == (wholes[1] / CONFIG).read_bytes()
    names = [sorted(path.name for path in (at / "rank-0" / "weights").iterdir()) for at in (replaced, wholes[1])]
    assert names[0] == names[1]  # nothing of the old one is left
    assert convert(replaced, Alone(), find_pnnx()).read == (0,)


@pytest.mark.thorough
def test_fewer_ranks_in_the_place_of_more(models, tmp_path):
    out = tmp_path / "out"
    partition_evenly(models[0], out, 2, 1)
    convert(out, Alone(), find_pnnx())
    one_rank(models[0], out, force=True)
    assert sorted(path.name for path in out.glob("rank-*")) == ["rank-0", "rank-1"]
    convert(out, Alone(), find_pnnx())
    assert sorted(path.name for path in out.glob("rank-*")) == ["rank-0"] and Manifest.load(out).plan.ranks == 1


def test_the_names_of_what_lies_beside_the_ranks():
    assert set(BESIDE_RANKS) == {*TOKENIZER_FILES, CONFIG, PLAN, STAGES}
    assert (package_commit.PARTITION, package_commit.MANIFEST) == (PARTITION, MANIFEST)


@pytest.fixture
def made_graphs(replaced, monkeypatch):
    """pnnx runs once for all the conversions of a test."""
    told = Manifest.load(replaced / NEXT, PARTITION)
    graphs = converting.make_graphs(told, replaced / NEXT, 0, find_pnnx(), Recipe())
    monkeypatch.setattr(converting, "make_graphs", lambda *given: graphs)


def slowly(name: str, monkeypatch):
    """What is called in os by this name, a hundredth of a second later."""
    real = getattr(os, name)
    monkeypatch.setattr(os, name, lambda *given, **more: (time.sleep(0.01), real(*given, **more))[1])


@pytest.mark.seconds(300)
def test_killed_at_any_moment_one_of_the_two_is_whole(replaced, wholes, answers, made_graphs, tmp_path, monkeypatch):
    pristine = shutil.copytree(replaced, tmp_path / "pristine")
    for name in ("rename", "replace", "fsync", "unlink"):
        slowly(name, monkeypatch)
    began = time.monotonic()
    convert(replaced, Alone(), find_pnnx())
    takes, chance, found = time.monotonic() - began, random.Random(0), []
    expected = [digests(whole) for whole in wholes]
    for _ in range(KILLS):
        shutil.rmtree(replaced)
        shutil.copytree(pristine, replaced)
        killed_after(chance.uniform(0, takes * 1.2), lambda: convert(replaced, Alone(), find_pnnx()))
        found.append(expected.index(digests(replaced)))  # what is there is one of them, by every byte
        assert answer(replaced) == answers[found[-1]]
        convert(replaced, Alone(), find_pnnx())
        assert digests(replaced) == expected[1] and left_over(replaced) == []
    assert set(found) == {0, 1}, found  # some were killed before the commit, some after it


def test_whatever_cannot_be_written_leaves_one_of_the_two(replaced, wholes, made_graphs, tmp_path, monkeypatch):
    """Each call that writes fails once, the disk being full."""
    pristine = shutil.copytree(replaced, tmp_path / "pristine")
    expected = [digests(whole) for whole in wholes]
    real = {name: getattr(os, name) for name in ("replace", "rename", "fsync", "mkdir")}
    counted = 0

    def failing(at: int):
        nonlocal counted
        counted = 0

        def wrapped(name):
            def call(*given, **more):
                nonlocal counted
                counted += 1
                if counted == at:
                    raise OSError(28, "No space left on device")
                return real[name](*given, **more)

            return call

        for name in real:
            monkeypatch.setattr(os, name, wrapped(name))

    failing(0)
    convert(replaced, Alone(), find_pnnx())
    calls, seen = counted, set()
    assert calls > 20
    for at in range(1, calls + 1):
        for name in real:
            monkeypatch.setattr(os, name, real[name])
        shutil.rmtree(replaced)
        shutil.copytree(pristine, replaced)
        failing(at)
        with suppress(OSError, MpsplitError):
            convert(replaced, Alone(), find_pnnx())
        for name in real:
            monkeypatch.setattr(os, name, real[name])
        seen.add(expected.index(digests(replaced)))
        convert(replaced, Alone(), find_pnnx())
        assert digests(replaced) == expected[1] and left_over(replaced) == [], at
    assert seen == {0, 1}


def test_a_commit_that_was_interrupted_is_finished_by_who_opens_the_package(replaced, wholes, made_graphs, monkeypatch):
    moves = []

    def power_cut(source, target):
        moves.append(target)
        if len(moves) == 3:
            raise KeyboardInterrupt
        os.replace(source, target)

    monkeypatch.setattr(package_commit, "_replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        convert(replaced, Alone(), find_pnnx())
    monkeypatch.undo()
    assert (replaced / COMMITTED).is_dir()
    assert digests(replaced) == digests(wholes[1]) and not (replaced / COMMITTED).exists()


def test_where_it_cannot_be_finished_it_is_said(replaced, monkeypatch):
    (replaced / NEXT).rename(replaced / COMMITTED)

    def read_only(*given, **more):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(package_commit, "_clear", read_only)
    with pytest.raises(PackageError, match="could not be put in its place .Read-only file system.*write there once"):
        Manifest.load(replaced)


def test_a_killed_partition_is_nothing(wholes, models, answers, tmp_path, monkeypatch):
    out = shutil.copytree(wholes[0], tmp_path / "package")
    (out / NEXT / "rank-0").mkdir(parents=True)
    (out / NEXT / "rank-0" / "graph.fx.txt").write_text("half")
    assert answer(out) == answers[0]
    convert(out, Alone(), find_pnnx())
    assert digests(out) == digests(wholes[0]) and left_over(out) == []
