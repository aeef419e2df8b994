"""A cache that would not fit is refused before it is promised."""

import re
from pathlib import Path

import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.engine import native_engine
from mpsplit.runtime.engine.cache_room import check_room, page_bytes
from mpsplit.runtime.engine.engine_protocol import CACHES
from mpsplit.runtime.engine.pages import PAGE
from mpsplit.runtime.load import load_engine
from tests.loops import bare_manifest
from tests.missing import needs
from tests.models import EXAMPLE, facts

MANIFEST = bare_manifest("room", even_plan(facts(), 2, 1))


def test_all_ranks_of_the_machine_count_together():
    of_page = page_bytes(MANIFEST, 0, "f32") + page_bytes(MANIFEST, 1, "f32")
    check_room(MANIFEST, [0, 1], 10, "f32", 10 * of_page)
    check_room(MANIFEST, [1], 10, "f32", 5 * of_page)
    with pytest.raises(RunError, match=rf"a cache of 320 tokens .*its ranks: 2\).*; --cache {9 * PAGE} fits, "):
        check_room(MANIFEST, [0, 1], 10, "f32", 10 * of_page - 1)
    with pytest.raises(RunError, match="not even one request of the context fits"):
        check_room(MANIFEST, [0, 1], 10, "f32", of_page)


@needs("the engine")
@pytest.mark.parametrize("stored", CACHES)
def test_a_page_takes_what_the_engine_takes_for_it(package_of, stored, monkeypatch):
    """By the addresses that it reserves; then the largest cache that was said to fit does."""
    package, pages = package_of(EXAMPLE, 1, 1), 4096
    engine = load_engine(package, Alone(), "native")

    def addresses() -> int:
        line = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(line[1]) * 1024

    engine.reserve(pages, stored)
    before = addresses()
    engine.reserve(2 * pages, stored)
    assert addresses() - before == pytest.approx(pages * page_bytes(Manifest.load(package), 0, stored), rel=0.01)
    monkeypatch.setattr(native_engine, "available_bytes", lambda: 123 * 2**20)
    with pytest.raises(RunError) as wrong:
        engine.reserve(10**6, stored)
    most = int(re.search(r"--cache (\d+) fits", str(wrong.value))[1])
    engine.reserve(most // PAGE, stored)
    with pytest.raises(RunError, match=f"--cache {most} fits"):
        engine.reserve(most // PAGE + 1, stored)
