"""Prefixes and conversations on disk, on 1, 2 and 4 ranks: what is loaded gives the answers of a
run from scratch, or is refused."""

import json
import logging
import os
import shutil
import time

import numpy as np
import pytest

from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.package.together.folder_lock import FolderLock
from mpsplit.runtime.engine.pages import PAGE, Pages
from mpsplit.runtime.kept.kept_texts import (
    CHAT,
    KEPT,
    PREFIXES,
    SESSIONS,
    KeptText,
    folder_of,
    names,
    sessions_of,
    weights_id,
)
from mpsplit.runtime.kept.segments import MOST
from mpsplit.runtime.kept.session_counts import KeptLimits
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
MINE = sessions_of("key-of-mine")
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
    told = loop.generate(Request(TOKENS[:length], 1, saves=name, about=about, ignore_eos=True))
    assert told.saved is True, told.saved
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
        lead(loop, world, lambda loop=loop, lengths=lengths: [keep(loop, length, MINE) for length in lengths])
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
        loop.ranks.step = lambda tokens, *asked: fed.append(len(tokens)) or step(tokens, *asked)
        forget(loop)
        warm = folder_of(MINE, f"of-{length}") if length else ""
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


def the_file(package, folder, rank):
    """Of the last save; files of those before may still lie beside it."""
    return package / folder / f"rank-{rank}.{KeptText.read(package, folder).saves[-1]}.kv"


@pytest.fixture
def logged():
    """What the log was told."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("mpsplit").addHandler(handler)
    yield lines
    logging.getLogger("mpsplit").removeHandler(handler)


@pytest.mark.parametrize("kind", [PREFIXES, MINE])
def test_whatever_is_wrong_is_a_miss_and_the_answer_is_right(world, package, kind, logged):
    loop = load_loop(package, world)

    def work():
        prompt = (*TOKENS[:70], 1)
        forget(loop)
        scratch = loop.generate(Request(prompt, 4, ignore_eos=True)).token_ids
        folder, last = folder_of(kind, "of-70"), world.size - 1

        def missed(why):
            """A miss that the log tells too; whether the next one is a hit again."""
            forget(loop)
            logged.clear()
            end = loop.generate(Request(prompt, 4, warm=folder, ignore_eos=True))
            assert end.token_ids == scratch and end.stats.cached_tokens == 0
            assert why in end.kept["miss"], end.kept
            assert any(folder in line and why in line for line in logged)
            forget(loop)
            keep(loop, 70, kind)
            forget(loop)
            again = loop.generate(Request(prompt, 4, warm=folder, ignore_eos=True))
            assert again.kept == {"hit": 70} and again.token_ids == scratch and again.stats.cached_tokens == 70

        keep(loop, 70, kind)
        for damaged in (
            lambda whole: whole[:-9],
            lambda whole: whole + b"x",
            lambda whole: whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
            lambda whole: b"",
        ):
            file = the_file(package, folder, last)
            file.write_bytes(damaged(file.read_bytes()))
            missed(f"rank {last} finds its file damaged")
        for at in (40, 100, 150, 176):  # of other weights, of other tokens, of another save, of another rank
            file = the_file(package, folder, last)
            whole = file.read_bytes()
            file.write_bytes(whole[:at] + b"0000" + whole[at + 4 :])
            missed(f"rank {last} has a file of another save")
        the_file(package, folder, last).unlink()
        missed(f"rank {last} has no such file")
        file = the_file(package, folder, last)
        file.unlink()
        os.mkfifo(file)  # nobody will ever write into it
        missed(f"rank {last} finds its file damaged")
        record = package / folder / KEPT
        for wrong, why in (
            ({"whose": "0" * 64}, "belongs to other weights"),
            ({"stored": "q8"}, "belongs to another --kv"),
            ({"format_version": 3}, "was kept by another mpsplit"),
            ({"tokens": ["x"]}, "is damaged"),
            ({"tokens": [*TOKENS[:69], 7]}, "the tokens are not those that were written"),
            ({"tokens": list(TOKENS[:60])}, "the segments are not those of the tokens"),
            ({"segments": [{"save": "../../x"}]}, "is damaged"),
            ({"about": 1}, "is damaged"),
        ):
            fields = json.loads(record.read_text())
            record.write_text(json.dumps(fields | wrong))
            missed(why)
        for text in ("", "{", "[1]", "\0" * 99):
            record.write_text(text)
            missed(f"{folder} is damaged")

    lead(loop, world, work)


def test_files_of_two_saves_are_never_mixed(world, package):
    """As where a save succeeds on one rank alone, and the other still has what was before."""
    loop = load_loop(package, world)

    def work():
        prompt = (*TOKENS[9:79], 1)
        forget(loop)
        scratch = loop.generate(Request(prompt, 4, ignore_eos=True)).token_ids
        forget(loop)
        folder = keep(loop, 70, MINE)
        old = the_file(package, folder, world.size - 1).read_bytes()
        loop.generate(Request(prompt[:-1], 1, saves=folder, ignore_eos=True))
        loop.on_disk.settle()
        the_file(package, folder, world.size - 1).write_bytes(old)
        forget(loop)
        end = loop.generate(Request(prompt, 4, warm=folder, ignore_eos=True))
        assert end.token_ids == scratch and "has a file of another save" in end.kept["miss"]

    lead(loop, world, work)


def test_a_conversation_that_goes_on_writes_what_is_new(world, package):
    loop = load_loop(package, world, chunk=16)

    def work():
        folder, sizes = folder_of(MINE, "grows"), []
        for end in (40, 50, 70, 70, 78):
            forget(loop)
            told = loop.generate(Request(TOKENS[:end], 1, saves=folder, warm=folder, ignore_eos=True))
            assert told.saved is True
            loop.on_disk.settle()
            kept = KeptText.read(package, folder)
            assert len(kept.tokens) == end
            sizes.append([(segment.first, segment.last) for segment in kept.segments])
        assert sizes == [
            [(0, 40)],
            [(0, 40), (32, 50)],
            [(0, 40), (32, 50), (32, 70)][:1] + [(32, 70)],
            [(0, 40), (32, 70)],
            [(0, 40), (32, 70), (64, 78)],
        ]
        assert len(list((package / folder).glob("rank-0.*.kv"))) == 3
        # somewhere it becomes another one
        other = (*TOKENS[:66], 5, 4, 3, *TOKENS[:5])
        loop.generate(Request(other, 1, saves=folder, warm=folder, ignore_eos=True))
        kept = KeptText.read(package, folder)
        assert [(each.first, each.last) for each in kept.segments] == [(0, 40), (32, 70), (64, 74)]
        for prompt in ((*other, 1), (*TOKENS, 1), (*TOKENS[:30], 1), (9, 9, 9)):
            forget(loop)
            scratch = loop.generate(Request(prompt, 4, ignore_eos=True)).token_ids
            forget(loop)
            assert loop.generate(Request(prompt, 4, warm=folder, ignore_eos=True)).token_ids == scratch
        many = [loop.generate(Request(TOKENS[: 33 + n], 1, saves=folder, ignore_eos=True)) for n in range(40)]
        assert all(told.saved is True for told in many)
        assert len(KeptText.read(package, folder).segments) <= MOST

    lead(loop, world, work)


def test_a_save_that_fails_is_told_and_the_next_one_works(world, package):
    loop = load_loop(package, world)

    def work():
        untouched = keep(loop, 33)
        (package / PREFIXES / "file").write_text("where a folder should be")
        for folder, why in (("prefixes/file", "rank 0 cannot write its file (Not a directory)"),
                            ("manifest.json/x", "manifest.json cannot be written to (File exists)")):  # fmt: skip
            told = loop.generate(Request(TOKENS, 2, saves=folder, ignore_eos=True))
            assert len(told.token_ids) == 2 and told.unsaved == why
        told = loop.generate(Request(TOKENS[:40], 1, saves=untouched, ignore_eos=True))
        assert told.saved is True

    lead(loop, world, work)


def test_sessions_stay_within_limits(world, package, shared_folder):
    host = shared_folder / f"host-{world.rank}"  # with a disk of its own
    shutil.copytree(package, host, ignore=shutil.ignore_patterns(SESSIONS, PREFIXES))
    loop = load_loop(host, world)

    def there(owner=MINE):
        loop.on_disk.turn()
        return names(host, owner)

    def work():
        now = time.time()
        chat, ours = keep(loop, 40, sessions_of(CHAT)), keep(loop, 70, MINE)
        for folder in (chat, ours):
            os.utime(host / folder / KEPT, (now - 90, now - 90))
        keep(loop, 41, MINE)
        (host / MINE / "left").mkdir()
        (host / MINE / "left" / "rank-0.0123.kv").write_bytes(b"of a save that was killed")
        (host / ours / "rank-0.4567.kv").write_bytes(b"of another one")
        (host / SESSIONS / "http-old").mkdir(parents=True)
        (host / SESSIONS / "http-old" / KEPT).write_text("{}")
        (host / SESSIONS / "http-old" / "rank-0.kv").write_bytes(b"of an older mpsplit")
        loop.on_disk.keep_within(KeptLimits(sessions=3, bytes=10**9, seconds=60))
        loop.on_disk.turn()
        loop.on_disk.settle()
        assert there() == ["of-41"] and there(sessions_of(CHAT)) == ["of-40"]
        assert sorted(path.name for path in (host / MINE).iterdir()) == [".lock", "of-41"]
        assert not (host / SESSIONS / "http-old").exists()
        for length in (42, 43, 44, 45):
            keep(loop, length, MINE)
            loop.generate(Request(TOKENS[:42], 1, warm=folder_of(MINE, "of-42"), ignore_eos=True))
        loop.on_disk.settle()
        assert there() == ["of-42", "of-44", "of-45"]  # used, and the two that came last
        size = KeptText.read(host, folder_of(MINE, "of-42")).bytes
        loop.on_disk.keep_within(KeptLimits(sessions=9, bytes=2 * size, seconds=60))
        keep(loop, 46, MINE)
        loop.on_disk.settle()
        assert there() == ["of-42", "of-46"]
        loop.on_disk.keep_within(KeptLimits(sessions=9, bytes=size - 1, seconds=60))
        told = loop.generate(Request(TOKENS[:47], 1, saves=folder_of(MINE, "of-47"), ignore_eos=True))
        assert "bytes on all ranks" in told.unsaved
        loop.on_disk.settle()

    lead(loop, world, work)
    for rank in range(world.size):
        files = sorted(path.parent.name for path in (host / MINE).glob(f"*/rank-{rank}.*.kv"))
        assert files == (["of-42", "of-46"] if rank == world.rank else [])


def test_what_is_damaged_when_a_server_starts_is_told_to_who_asks_for_it(world, package):
    """Until the next start; then nobody knows of it any more."""
    loop = load_loop(package, world)

    def work():
        folder = keep(loop, 70, MINE)
        record = package / folder / KEPT
        record.write_text("{")
        for why in ("was damaged, and was set aside", "nothing is kept under this name"):
            loop.on_disk.keep_within(KeptLimits())
            loop.on_disk.settle()
            forget(loop)
            end = loop.generate(Request(TOKENS[:71], 1, warm=folder, ignore_eos=True))
            assert why in end.kept["miss"] and end.stats.cached_tokens == 0
        assert not record.parent.exists()

    lead(loop, world, work)


def test_two_processes_do_not_keep_in_one_folder(world, package):
    loop = load_loop(package, world)

    def work():
        other = FolderLock(package / MINE)
        told = loop.generate(Request(TOKENS[:40], 1, saves=folder_of(MINE, "x"), warm=folder_of(MINE, "x")))
        assert f"process {os.getpid()} on " in told.unsaved and told.unsaved == told.kept["miss"]
        other.release()
        told = loop.generate(Request(TOKENS[:40], 1, saves=folder_of(MINE, "x")))
        assert told.saved is True
        loop.on_disk.settle()
        FolderLock(package / MINE).release()

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
