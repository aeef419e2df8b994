"""Requests made up from the server's own description of itself: each is answered, and as the
description says. Over a loop without a model, and over two real ranks."""

from collections import Counter

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.cases import thorough
from tests.serve.real_loop import RealLoop
from tests.serve.text_server import text_served

SHARES = {"/v1/chat/completions": 0.4, "/v1/completions": 0.4, "/tokenize": 0.1, "/detokenize": 0.1}
OF_TEXTS = {"/v1/embeddings": 0.5, "/v1/rerank": 0.4, "/tokenize": 0.1}
FEW = 10  # of those that take nothing, or next to nothing
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.seconds(300)
@pytest.mark.parametrize("cases", [200, *thorough(2000)])  # at least, over all operations
def test_many_requests(target, cases):
    seen = Counter()
    with target(places=8, waiting=64, most_tokens=96) as server, requests.Session() as session:
        if isinstance(server.loop, RealLoop):
            cases //= 4  # each takes longer
        schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
        for operation in (result.ok() for result in schema.get_all_operations()):
            fuzz(operation, round(cases * SHARES.get(operation.path, 0)) or FEW, session, seen)
        server.lives()
    assert sum(seen.values()) >= cases and seen[200] > cases / 10 and seen[400] > cases / 10, seen
    assert set(seen) <= {200, 400, 404, 405, 429}, seen


@pytest.mark.seconds(300)
@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_those_to_a_model_that_reads_texts(tmp_path, task):
    seen, cases = Counter(), 200
    with text_served(tmp_path, task) as (address, service), requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for operation in (result.ok() for result in schema.get_all_operations()):
            fuzz(operation, round(cases * OF_TEXTS.get(operation.path, 0)) or FEW, session, seen)
        assert not service.tickets and not service.loop.running
    assert sum(seen.values()) >= cases and seen[200] > FEW and seen[400] > cases / 10, seen
    assert set(seen) <= {200, 400, 404, 405, 429}, seen


def fuzz(operation, count: int, session: requests.Session, seen: Counter) -> None:
    right, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(right | wrong)
    def run(case):
        response = case.call(session=session, timeout=10)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    run()
