"""Memory of pages that nobody uses goes back to the system, and what was in them is computed
anew."""

import resource
from pathlib import Path

from mpsplit.comm import Alone
from mpsplit.runtime.engine.cache_room import page_bytes
from mpsplit.runtime.engine.pages import PAGE
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.missing import needs

REQUESTS = 48


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@needs("the engine")
def test_memory_of_unused_pages_goes_back(package_of):
    loop = load_loop(package_of("llama", 1, 1), Alone())
    context = loop.facts.context
    loop.reserve(REQUESTS * context)

    def answers():
        prompts = [tuple((7 * i * i + (n + 3) * i) % 131 for i in range(context - PAGE)) for n in range(REQUESTS)]
        return [loop.generate(Request(prompt, 4, ignore_eos=True)).token_ids for prompt in prompts]

    right, page = answers(), page_bytes(loop.engine.manifest, 0, "f32")
    kept, held = len(loop.pages.kept) * page, resident()
    loop.forget_unused()
    assert loop.pages.kept and held - resident() < kept / 10  # nothing is old enough
    loop.unused_seconds = 0.0
    loop.forget_unused()
    assert not loop.pages.kept and held - resident() > kept * 0.9
    assert answers() == right
    loop.end()
