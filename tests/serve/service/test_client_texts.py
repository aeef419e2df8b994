"""Sessions over HTTP: whose they are, and what of a request is kept."""

import hashlib

import httpx
import pytest

from mpsplit.runtime.kept.kept_texts import ANYONE
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import served

KEYS = (b"the first key", b"the second key")


@pytest.mark.parametrize("keys", [(), KEYS[:1], KEYS])
def test_each_key_has_sessions_of_its_own(text, keys):
    loop, owners = FakeLoop(text), []
    with served(loop, keys=keys) as (address, _):
        for key in keys or (b"whatever",):
            body = {"prompt": "one", "session_id": "mine", "n": 2, "user": "somebody"}
            headers = {"Authorization": f"Bearer {key.decode()}"}
            assert httpx.post(f"{address}/v1/completions", json=body, headers=headers).status_code == 200
            first, second = loop.requests[-2:]
            kind, owner, name = first.saves.split("/")
            assert (kind, name) == ("sessions", "mine") and first.warm == second.warm == first.saves
            assert not second.saves  # one of the answers goes on
            owners.append(owner)
    expected = [f"key-{hashlib.sha256(key).hexdigest()[:16]}" for key in keys]
    assert owners == (expected or [ANYONE])
