"""Whose word counts: a call's before the server's, field by field."""

from mpsplit.runtime.talk.answer_settings import layer
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import client_of, served

CHAT = [{"role": "user", "content": "one two"}]


def test_a_call_comes_before_the_server(text):
    file = layer({"temperature": 0.5, "top_k": 9, "max_new_tokens": 3, "system": "Be brief."}, "a file")
    session = layer({"top_k": 7, "min_p": 0.1, "stop": ["zzz"]}, "the command line")
    with served(FakeLoop(text), layers=(file, session)) as (address, service), client_of(address) as client:
        client.chat.completions.create(model="fake", messages=CHAT)
        request = service.loop.requests[-1]
        assert (request.sampling.temperature, request.sampling.top_k, request.sampling.min_p) == (0.5, 7, 0.1)
        assert request.max_new_tokens == 3 and request.stops == ("zzz",)
        assert list(request.prompt) == text.chat([{"role": "system", "content": "Be brief."}, *CHAT])
        client.chat.completions.create(
            model="fake",
            messages=[{"role": "system", "content": "Be long."}, *CHAT],
            temperature=0,
            max_tokens=5,
            stop="x",
            seed=4,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias={"7": 2, "5": -100},
            extra_body={"min_p": 0.2, "min_keep": 2},
        )
        request = service.loop.requests[-1]
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_k, sampling.min_p, sampling.min_keep) == (0, 7, 0.2, 2)
        assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.5, -0.5, 4)
        assert sampling.logit_bias == ((5, -100.0), (7, 2.0))
        assert (
            request.max_new_tokens == 5 and request.stops == ("x",) and "brief" not in text.decode(list(request.prompt))
        )
        client.chat.completions.create(model="fake", messages=CHAT, extra_body={"preset": "penalty_sample"})
        assert service.loop.requests[-1].sampling.top_k == 50


def test_without_a_seed_each_call_has_its_own(text):
    with served(FakeLoop(text), layers=()) as (address, service), client_of(address) as client:
        for _ in range(2):
            client.completions.create(model="fake", prompt="one", max_tokens=1)
        first, second = service.loop.requests
        assert first.sampling.seed != second.sampling.seed and first.max_new_tokens == 1
