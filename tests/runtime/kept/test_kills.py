"""kill -9 at random moments of a save: what is there afterwards is the text of before or the one
that was to be saved, the answer is right, and no file is left over."""

import os
import random
import shutil

from mpsplit.comm import Alone
from mpsplit.runtime.engine.pages import Pages
from mpsplit.runtime.kept.kept_texts import KeptText
from mpsplit.runtime.kept.saves import Save
from mpsplit.runtime.kept.session_counts import KeptLimits
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.missing import needs
from tests.running import killed_after

ROUNDS = int(os.environ.get("MPSPLIT_TEST_KILLS", "24"))
FOLDER = "sessions/key-k/mine"
TOKENS = tuple((7 * i * i + 3 * i) % 131 for i in range(80))
PROMPT = (*TOKENS[:75], 9)


def save(loop, pages, length):
    """In a child: this process has no thread that writes, or the child would have half of it."""
    job = Save(FOLDER, pages, TOKENS[:length], {}, loop.stored, lambda: None, lambda unsaved: None)
    loop.on_disk.save(job)
    loop.on_disk.settle()


@needs("the engine")
def test_a_save_that_is_killed_leaves_the_one_before_or_is_whole(package_of, tmp_path):
    package = shutil.copytree(package_of("llama", 1, 1), tmp_path / "package")
    writer, reader = load_loop(package, Alone()), load_loop(package, Alone())
    held, _ = writer.pages.begin(PROMPT)
    writer.pages.grow(held, len(PROMPT))
    writer.ranks.place(0, 0, held.pages)
    writer.engine.step(TOKENS[:75], 0)
    pages = list(range(3))  # `step` takes them in their order
    right = reader.generate(Request(PROMPT, 4, ignore_eos=True)).token_ids
    dice = random.Random(5)

    for _ in range(ROUNDS):
        shutil.rmtree(package / "sessions", ignore_errors=True)
        assert not killed_after(None, lambda: save(writer, pages, 40))
        killed_after(dice.uniform(0, 0.03), lambda: save(writer, pages, 75))
        reader.pages = Pages(reader.pages.count)
        reader.on_disk.keep_within(KeptLimits())
        told = reader.generate(Request(PROMPT, 4, ignore_eos=True, warm=FOLDER))
        reader.on_disk.settle()
        assert told.token_ids == right
        assert told.kept in ({"hit": 40}, {"hit": 75})
        files = {path.name.split(".")[1] for path in (package / "sessions").glob("*/*/rank-*.kv")}
        assert files == set(KeptText.read(package, FOLDER).saves)
