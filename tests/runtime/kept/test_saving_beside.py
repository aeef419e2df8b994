"""Saves beside the steps, on ranks that are threads and whose disks are as slow as a test wants."""

import errno
from contextlib import contextmanager

import pytest

from mpsplit.runtime.kept.kept_texts import KEPT, KeptText
from mpsplit.runtime.kept.outcomes import Outcome
from mpsplit.runtime.loop.loop_protocol import Request
from tests.loops import Transcript, led

FOLDER = "sessions/key-1/mine"


class Disk:
    """What an engine was asked to keep; a save is where the test puts it."""

    keeps = True

    def __init__(self):
        self.state, self.files, self.swept = (Outcome.DONE, 100), [], []

    def put_into(self, engine):
        for name in ("save", "saved", "load", "sweep", "keeps"):
            setattr(engine, name, getattr(self, name))

    def save(self, slot, segment, folder):
        self.files.append(segment)

    def saved(self):
        return self.state

    def load(self, slot, segment, folder):
        return Outcome.DONE

    def sweep(self, folder, saves):
        self.swept.append(saves)


@contextmanager
def two_ranks(tmp_path):
    with led(2, 1, package=tmp_path, chunk=4) as (loop, engines, _):
        disks = [Disk(), Disk()]
        for disk, engine in zip(disks, engines, strict=True):
            disk.put_into(engine)
        loop.reserve(loop.facts.context)
        yield loop, disks


def asked(loop, *prompt, **more):
    heard = Transcript()
    loop.submit(Request(prompt, 4, ignore_eos=True, **more), heard)
    return heard


def turned_until(loop, done):
    for _ in range(100_000):
        if done():
            return
        loop.turn()
    raise AssertionError("it never came")


def test_a_slow_disk_delays_nobody_else(tmp_path):
    with two_ranks(tmp_path) as (loop, (_, slow)):
        slow.state = (Outcome.WRITING, 0)
        saving = asked(loop, 1, 2, 3, saves=FOLDER)
        turned_until(loop, lambda: slow.files)
        others = [asked(loop, 4 + i, 5, 6) for i in range(9)]  # more than run at once
        turned_until(loop, lambda: all(other.ends for other in others))
        assert len(saving.tokens) == 4 and not saving.ends and not (tmp_path / FOLDER / KEPT).exists()
        assert loop.pages.used == 1  # nobody writes into what is being read
        slow.state = (Outcome.SYNCING, 0)
        turned_until(loop, lambda: not loop.pages.used)
        assert not saving.ends
        slow.state = (Outcome.DONE, 11)
        turned_until(loop, lambda: saving.ends)
        assert saving.ends[0].saved is True
        kept = KeptText.read(tmp_path, FOLDER)
        assert kept.bytes == 111 and kept.tokens == (1, 2, 3, *saving.tokens[:-1])


def test_saves_wait_for_each_other(tmp_path):
    with two_ranks(tmp_path) as (loop, (fast, slow)):
        slow.state = (Outcome.WRITING, 0)
        first, second = asked(loop, 1, 2, saves=f"{FOLDER}-1"), asked(loop, 3, 4, saves=f"{FOLDER}-2")
        turned_until(loop, lambda: len(loop.saving) == 2 and slow.files)
        assert len(fast.files) == 1 and loop.pages.used == 2
        slow.state = (Outcome.DONE, 0)
        turned_until(loop, lambda: first.ends and second.ends)
        assert first.ends[0].saved is second.ends[0].saved is True and len(fast.files) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_that_fails_on_one_rank_is_none(tmp_path, rank):
    with two_ranks(tmp_path) as (loop, disks):
        disks[rank].state = (Outcome.UNWRITABLE, errno.ENOSPC)
        told = loop.generate(Request((1, 2, 3), 4, ignore_eos=True, saves=FOLDER))
        assert told.unsaved == f"rank {rank} cannot write its file (No space left on device)"
        assert not (tmp_path / FOLDER).exists()
        turned_until(loop, lambda: all(disk.swept == [[]] for disk in disks))
        disks[rank].state = (Outcome.DONE, 5)
        assert loop.generate(Request((1, 2, 3), 4, ignore_eos=True, saves=FOLDER)).saved is True
        (segment,) = KeptText.read(tmp_path, FOLDER).segments
        disks[rank].state = (Outcome.UNWRITABLE, errno.EIO)
        told = loop.generate(Request(tuple(range(40)), 4, ignore_eos=True, saves=FOLDER))
        assert "Input/output error" in told.unsaved and KeptText.read(tmp_path, FOLDER).segments == (segment,)
        turned_until(loop, lambda: all(disk.swept[-1] == [segment.save] for disk in disks))


def test_a_record_that_cannot_be_written_is_told(tmp_path):
    with two_ranks(tmp_path) as (loop, disks):
        (tmp_path / FOLDER).mkdir(parents=True)
        (tmp_path / FOLDER / KEPT).mkdir()  # no file can take its place
        told = loop.generate(Request((1, 2, 3), 4, ignore_eos=True, saves=FOLDER))
        assert told.unsaved == "kept.json cannot be written (Is a directory)"
        turned_until(loop, lambda: all(disk.swept == [[]] for disk in disks))


def test_a_cache_that_saves_hold_is_waited_for(tmp_path):
    """Who needs pages that are being read gets them when they are."""
    with two_ranks(tmp_path) as (loop, (_, slow)):
        slow.state = (Outcome.WRITING, 0)
        long = tuple(range(loop.facts.context - 8))
        saving = asked(loop, *long, saves=FOLDER)
        turned_until(loop, lambda: slow.files)
        waiting = asked(loop, 9, *long[1:])
        for _ in range(50):
            loop.turn()
        assert not waiting.pieces and not loop.running
        slow.state = (Outcome.SYNCING, 0)
        turned_until(loop, lambda: waiting.ends)
        assert not saving.ends
        slow.state = (Outcome.DONE, 0)
        turned_until(loop, lambda: saving.ends)
