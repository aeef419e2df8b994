"""What docs/bits.md promises of a model that exists, SmolLM2: on the first two texts of
examples/smollm2, which the figures there are of too. With --thorough also what takes minutes."""

import json
from dataclasses import dataclass

import pytest

from tests.cases import thorough
from tests.missing import needs, smollm2
from tests.models import EXAMPLE
from tests.running import mpsplit

TEXTS = EXAMPLE.parent / "smollm2" / "english.txt"


@dataclass(frozen=True)
class Promise:
    """`words` are convert's; KL in nats and perplexity, times the original's, at most;
    of two texts the latter is uncertain by 0.02 and more."""

    words: tuple[str, ...]
    ranks: int
    kl: float
    perplexity_ratio: float


PROMISES = {
    "q4 without a text": Promise(("--quant", "q4", "--no-calibrate"), 1, 0.15, 1.15),
    "the file's own blocks": Promise((), 2, 0.0041, 1.01),
    "q6 without a text": Promise(("--quant", "q6", "--no-calibrate"), 1, 0.03, 1.03),
    "q4": Promise(("--quant", "q4"), 1, 0.13, 1.10),
}


@needs("SmolLM2")
@needs("the kernels")
@pytest.mark.seconds(400)
@pytest.mark.parametrize("name", [*list(PROMISES)[:1], *thorough(*list(PROMISES)[1:])])
def test_a_real_model_keeps_its_answers(tmp_path, name):
    promise, package = PROMISES[name], tmp_path / "package"
    prompts = tmp_path / "texts.txt"
    prompts.write_text("\n".join(TEXTS.read_text(encoding="utf-8").splitlines()[:2]) + "\n", encoding="utf-8")
    mpsplit("partition", smollm2, "--ranks", promise.ranks, "--out", package)
    mpsplit("convert", package, *promise.words)
    found = json.loads(mpsplit("verify", package, smollm2, "--prompts", prompts, "--json"))
    assert found["same"] and found["kl"] <= promise.kl and found["perplexity_ratio"] <= promise.perplexity_ratio, found
    assert 1 / promise.perplexity_ratio <= found["perplexity_ratio"]
