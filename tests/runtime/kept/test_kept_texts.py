"""Prefixes and conversations on disk, on 1, 2 and 4 ranks: what is loaded gives the answers of a
run from scratch, or is refused."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.engine.pages import PAGE, Pages
from mpsplit.runtime.kept.kept_texts import KEPT, PREFIXES, SESSIONS, KeptText, folder_of, names, weights_id
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits
from tests.loops import finished, lead
from tests.missing import needs

pytestmark = [
    pytest.mark.mpi,
    needs("the engine"),
]
TOKENS = tuple(np.random.default_rng(8).integers(0, 131, 80).tolist())
REST = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5)
LENGTHS = (5, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 7)


@pytest.fixture(scope="module")
def package(world, package_of, shared_folder):
    """A copy, for there will be files in it."""
    copy = shared_folder / "kept"
    original = package_of("llama", *splits(world.size)[-1])
    if world.rank == 0:
        shutil.copytree(original, copy)
    world.exchange(None)
    return copy


@pytest.fixture(scope="module")
def narrow(world, package_of, model_of, shared_folder):
    """A package of the same weights with half the context, 64 tokens."""
    whole, model = model_of("llama"), shared_folder / "llama-narrow"
    if world.rank == 0:
        config = json.loads((whole / "config.json").read_text())
        shutil.copytree(whole, model)
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    world.exchange(None)
    return package_of(model, *splits(world.size)[-1])


def keep(loop, length, kind=PREFIXES, **about):
    name = folder_of(kind, f"of-{length}")
    loop.generate(Request(TOKENS[:length], 1, saves=name, about=about, ignore_eos=True))
    return name


def forget(loop):
    """As after a restart."""
    assert loop.pages.used == 0
    loop.pages = Pages(loop.pages.count)


def test_answers_are_those_of_a_run_from_scratch(world, package):
    loop = load_loop(package, world, chunk=16)

    def work():
        prompts = [TOKENS[:n] + REST[:m] for n in LENGTHS for m in (0, 1, 11)]
        scratch = []
        for prompt in prompts:
            forget(loop)
            scratch.append(loop.generate(Request(prompt, 8, ignore_eos=True)).token_ids)
        forget(loop)
        kept = [keep(loop, n, text="hello") for n in LENGTHS]
        assert names(package, PREFIXES) == sorted(folder.split("/")[1] for folder in kept)
        assert KeptText.read(package, kept[0]).about == {"text": "hello"}
        for folder, length in zip(kept, LENGTHS, strict=True):
            for prompt, expected in zip(prompts, scratch, strict=True):
                forget(loop)
                end = loop.generate(Request(prompt, 8, ignore_eos=True, warm=folder))
                assert end.token_ids == expected
                usable = min(length, len(prompt) - 1, next((i for i, t in enumerate(prompt) if t != TOKENS[i]), 99))
                assert end.stats.cached_tokens in (usable, usable // PAGE * PAGE)
        forget(loop)
        loop.reserve(8 * loop.facts.context)
        several = [Request(prompt, 8, ignore_eos=True, warm=kept[i % 5]) for i, prompt in enumerate(prompts)]
        assert [end.token_ids for end in finished(loop, several)] == scratch

    lead(loop, world, work)


@pytest.mark.most(2)
def test_a_package_of_another_context_takes_what_it_has_pages_for(world, package, narrow):
    long = 2 * PAGE + 7
    for folder, lengths in ((package, (40, long)), (narrow, (40,))):
        loop = load_loop(folder, world)
        lead(loop, world, lambda loop=loop, lengths=lengths: [keep(loop, length, SESSIONS) for length in lengths])
    if world.rank == 0:
        (package / SESSIONS).rename(package / "of-package")
        (narrow / SESSIONS).rename(package / SESSIONS)
        (package / "of-package").rename(narrow / SESSIONS)
    world.exchange(None)
    wide, tight = (load_loop(folder, world, chunk=16) for folder in (package, narrow))
    assert weights_id(wide.engine.manifest) == weights_id(tight.engine.manifest)

    def answer(loop, tokens, length=0):
        """Its ids, how many tokens of the prompt were known, and how many the ranks computed."""
        fed, step = [], loop.ranks.step
        loop.ranks.step = lambda tokens, asked: fed.append(len(tokens)) or step(tokens, asked)
        forget(loop)
        warm = folder_of(SESSIONS, f"of-{length}") if length else ""
        end = loop.generate(Request(tokens, 8, warm=warm, ignore_eos=True))
        loop.ranks.step = step
        return end.token_ids, end.stats.cached_tokens, sum(fed)

    def in_the_wide_one():
        prompt = TOKENS + REST  # more than the other has room for
        ids, _, computed = answer(wide, prompt)
        assert computed == len(prompt) + 7
        assert answer(wide, prompt, 40) == (ids, 40, computed - 40)

    def in_the_tight_one():
        prompt = TOKENS[:44] + REST
        ids, _, computed = answer(tight, prompt)
        assert answer(tight, prompt, 40) == (ids, 40, computed - 40)
        # it takes a page more than there are
        assert answer(tight, prompt, long) == (ids, 0, computed)
        with pytest.raises(RunError, match="the prompt has 82 tokens, the context 64; shorten it"):
            answer(tight, TOKENS[:long] + REST, long)
        tight.reserve(256)
        assert answer(tight, prompt, long) == (ids, PAGE, computed - PAGE)

    lead(wide, world, in_the_wide_one)
    lead(tight, world, in_the_tight_one)


def test_another_package_and_damage_are_refused_and_the_loop_lives(world, package):
    loop = load_loop(package, world)

    def refused(folder, message):
        forget(loop)
        with pytest.raises(RunError, match=message):
            loop.generate(Request((*TOKENS, 1), 2, warm=folder))

    def work():
        folder = keep(loop, 70)
        last = package / folder / f"rank-{world.size - 1}.kv"
        whole = last.read_bytes()
        refused(folder_of(PREFIXES, "nobody"), "has no nobody among its prefixes; there are: of-")
        for damaged in (whole[:-9], whole + b"x", whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], b""):
            last.write_bytes(damaged)
            refused(folder, f"cannot be used: rank {world.size - 1} finds its file damaged; make it again")
        last.write_bytes(whole[:40] + b"0000" + whole[44:])
        refused(folder, f"rank {world.size - 1} finds that it belongs to other weights")
        last.unlink()
        refused(folder, f"rank {world.size - 1} has no such file")
        fields = json.loads((package / folder / KEPT).read_text())
        (package / folder / KEPT).write_text(json.dumps(fields | {"whose": "0" * 64}))
        refused(folder, "rank 0 finds that it belongs to other weights, or to another --kv")
        (package / folder / KEPT).write_text(json.dumps(fields | {"tokens": ["x"]}))
        refused(folder, "is not what was written")
        assert len(loop.generate(Request(TOKENS, 2, ignore_eos=True)).token_ids) == 2
        unsaved = loop.generate(Request(TOKENS, 2, saves="manifest.json/x")).unsaved
        assert "cannot be kept: rank 0 cannot write its file" in unsaved

    lead(loop, world, work)


def test_what_is_too_old_is_forgotten_on_all_hosts(world, package, shared_folder):
    host = shared_folder / f"host-{world.rank}"  # with a disk of its own
    shutil.copytree(package, host)
    loop = load_loop(host, world)

    def work():
        old, young, unknown = keep(loop, 40, SESSIONS), keep(loop, 41, SESSIONS), folder_of(SESSIONS, "unknown")
        now = time.time()
        os.utime(host / old / KEPT, (now - 90, now - 90))
        for folder in (old, old, young, unknown):
            loop.forget(folder, now - 60)
        loop.turn()
        assert names(host, SESSIONS) == ["of-41"]

    lead(loop, world, work)
    assert not (host / SESSIONS / "of-40" / f"rank-{world.rank}.kv").exists()
    assert (host / SESSIONS / "of-41" / f"rank-{world.rank}.kv").exists()


def test_what_was_kept_in_another_kind_is_refused(world, package):
    loop = load_loop(package, world)

    def work():
        folder = keep(loop, 40)
        forget(loop)
        loop.reserve(loop.facts.context, "q8")
        with pytest.raises(RunError, match="or to another --kv"):
            loop.generate(Request((*TOKENS, 1), 2, warm=folder))
        again = keep(loop, 40)
        forget(loop)
        end = loop.generate(Request((*TOKENS[:40], 9), 5, warm=again, ignore_eos=True))
        assert end.stats.cached_tokens == 40
        forget(loop)
        assert loop.generate(Request((*TOKENS[:40], 9), 5, ignore_eos=True)).token_ids == end.token_ids

    lead(loop, world, work)


def test_it_is_the_weights_that_count(package):
    manifest = Manifest.load(package)
    assert weights_id(manifest) == weights_id(manifest.with_files([part.files for part in manifest.ranks], {"x": "y"}))
    other = [part.files[1:] for part in manifest.ranks]
    assert weights_id(manifest) != weights_id(manifest.with_files([files[::-1][1:] for files in other], {}))


@pytest.mark.parametrize("name", ["", "..", "a/b", ".x", "x" * 65, "a b", "ü"])
def test_names_that_are_none(name):
    with pytest.raises(RunError, match="is no name to keep something by"):
        folder_of(PREFIXES, name)
