"""Two ranks whose disks fail once, at each call in turn; started by test_faults.py.

In: a package, the file that steers fail_calls.c. Out: a line for each rank and kind of save: how
many calls were made to fail, and how many of these were told.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path

from mpsplit.comm import world
from mpsplit.runtime.engine.pages import Pages
from mpsplit.runtime.kept.session_counts import KeptLimits
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.runtime.kept.disk_faults import Faults

TOKENS = tuple((7 * i * i + 3 * i) % 256 + 1 for i in range(80))
PROMPT = (*TOKENS[:70], 9)


def restart(loop) -> None:
    """Nothing is in memory any more."""
    loop.on_disk.settle()
    loop.pages = Pages(loop.pages.count)
    loop.on_disk.keep_within(KeptLimits())


def answer(loop, **keeping):
    return loop.generate(Request(PROMPT, 4, ignore_eos=True, **keeping))


def fail_each(loop, faults: Faults, before: int) -> Counter:
    """A save of a text whose first tokens are kept already, or none."""
    folder, found = "sessions/key-f/mine", Counter()
    restart(loop)
    right = answer(loop).token_ids
    for call in range(1, 200):
        if before:
            loop.generate(Request(TOKENS[:before], 1, ignore_eos=True, saves=folder))
        restart(loop)
        faults.arm(call)
        told = answer(loop, warm=folder, saves=folder)
        loop.on_disk.settle()
        fired = faults.fired
        faults.arm(0)
        restart(loop)
        again = answer(loop, warm=folder, saves=folder)
        restart(loop)
        after = answer(loop, warm=folder)
        assert told.token_ids == again.token_ids == after.token_ids == right, (call, told, again, after)
        assert again.saved is True and after.kept == {"hit": len(PROMPT)}, (call, again, after)
        assert told.saved is not True or again.kept.get("hit", 0) == len(PROMPT), (call, told, again)
        loop.on_disk.settle()
        shutil.rmtree(loop.package / "sessions")
        if not fired:
            return found
        found["failed"] += 1
        found["told"] += told.saved is not True or told.kept.get("hit") != before
    raise AssertionError("there is no end of calls")


def main() -> None:
    package, control = map(Path, sys.argv[1:3])
    comm = world()
    loop = load_loop(package, comm)
    if comm.rank:
        loop.follow()
        return
    loop.reserve(8 * loop.facts.context)
    for rank in range(comm.size):
        for before in (0, 40):
            found = fail_each(loop, Faults(control, rank), before)
            print(rank, before, found["failed"], found["told"], flush=True)
    loop.end()


if __name__ == "__main__":
    main()
