"""Sessions over HTTP: which are used, and which are too old."""

import os
import time

import httpx
import pytest

from mpsplit.runtime.kept.kept_texts import KEPT, KeptText
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import served

TTL = 60.0


@pytest.fixture
def package(tmp_path):
    """name -> a session of that name, last used so many seconds ago."""

    def keep(name: str, ago: float):
        KeptText(f"sessions/{name}", "0" * 64, "f32", (1, 2, 3), {}).save(tmp_path)
        kept = tmp_path / "sessions" / name / KEPT
        os.utime(kept, (time.time() - ago,) * 2)
        return kept

    keep.path = tmp_path
    return keep


def test_a_session_is_used_until_it_is_too_old(text, package):
    young, _, _ = package("http-young", TTL - 30), package("http-old", TTL + 30), package("of-chat", TTL + 30)
    loop = FakeLoop(text)
    loop.package = package.path
    with served(loop, session_seconds=TTL) as (address, _):
        for name, warm in (("young", "sessions/http-young"), ("old", ""), ("new", "")):
            body = {"prompt": "one", "session_id": name, "n": 2}
            assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200
            first, second = loop.requests[-2:]
            assert first.warm == second.warm == warm
            # one of the answers goes on
            assert first.saves == f"sessions/http-{name}" and not second.saves
    assert set(loop.forgotten) == {"sessions/http-old"}
    assert time.time() - young.stat().st_mtime < 30  # it counts from the last time
