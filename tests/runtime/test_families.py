"""Every family, cut every way that fits, against transformers: logits, greedy tokens, seeds.

On 1, 2 and 4 ranks.
"""

import numpy as np
import pytest

from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.all_logits import all_logits
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits, thorough
from tests.loops import ENGINES, lead
from tests.models import FAMILIES, transformers_answer
from tests.runtime.originals import once_a_family

OTHERS = [family for family in FAMILIES if family not in ("llama-bias", "qwen3")]
PROMPT = tuple(np.random.default_rng(1).integers(0, 131, 23).tolist())
NEW = 64

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def original_of(model_of, world):
    """family -> transformers' logits of the prompt and its greedy tokens, on rank 0."""
    return once_a_family(world, model_of, lambda folder: transformers_answer(folder, PROMPT, NEW))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ["llama-bias", "qwen3", *thorough(*OTHERS, ranks=4)])
def test_logits_and_greedy_tokens_are_transformers(world, package_of, original_of, family, index, engine):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    loop = load_loop(package_of(family, *cuts[index]), world, chunk=9, engine=engine)
    original = original_of(family)
    logits = all_logits(loop.engine, world, PROMPT)

    def work():
        expected_logits, expected_tokens = original
        assert np.abs(logits - expected_logits).max() < 1e-4
        assert loop.generate(Request(PROMPT, NEW, ignore_eos=True)).token_ids == expected_tokens

    lead(loop, world, work)
    loop.engine.close()


def test_the_same_seed_gives_the_same_tokens_at_any_number_of_ranks(world, package_of, model_of):
    """Against a package of one rank, which rank 0 runs alone."""
    from mpsplit.comm import Alone

    wholes = [
        Request(PROMPT, 40, Sampling(t, k, p, 1.1, 8, seed=5), ignore_eos=True)
        for t, k, p in [(0.8, 0, 0.9), (1.0, 0, 1.0), (1.2, 20, 0.95)]
    ]
    loop = load_loop(package_of("llama", *splits(world.size)[0]), world)
    alone_package = package_of_one(world, package_of, model_of)

    def work():
        alone = load_loop(alone_package, Alone())
        for request in wholes:
            assert loop.generate(request).token_ids == alone.generate(request).token_ids

    lead(loop, world, work)


def package_of_one(world, package_of, model_of):
    """A one-rank package of the llama, made by rank 0."""
    if world.size == 1:
        return package_of("llama", 1, 1)
    from mpsplit.comm import Alone
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from tests.packages import partition_evenly

    model = model_of("llama")
    out = model.parent / "llama-alone"
    if world.rank == 0 and not out.exists():
        partition_evenly(model, out, 1, 1)
        convert(out, Alone(), find_pnnx())
    world.exchange(None)
    return out


def test_chunks_do_not_change_the_logits(world, package_of):
    loop = load_loop(package_of("mistral-window", *splits(world.size)[0]), world)
    whole = all_logits(loop.engine, world, PROMPT)
    loop.engine.step(PROMPT[:5], 0)
    loop.engine.step(PROMPT[5:22], 5)
    last = loop.engine.step(PROMPT[22:], 22)
    if world.rank == 0 and last.shape[1]:
        rows = loop.engine.vocabulary
        assert np.abs(last[0] - whole[-1, rows.start : rows.stop]).max() < 1e-5


@pytest.mark.seconds(300)
def test_tiny_vicuna_answers_as_well_as_the_original(world, package_of):
    import json

    from tests.models import EXAMPLE

    loop = load_loop(package_of(EXAMPLE, *splits(world.size)[0]), world)
    lines = [json.loads(line) for line in (EXAMPLE / "eval.jsonl").read_text(encoding="utf-8").splitlines()]

    def work():
        answers = [
            loop.generate(Request(tuple(loop.text.chat([{"role": "user", "content": line["prompt"]}])), 64))
            for line in lines
        ]
        right = [answer.text.strip() == line["answer"] for answer, line in zip(answers, lines, strict=True)]
        assert len(lines) == 200 and np.mean(right) >= 0.9
        if world.size == 1:  # once is enough for the slow original
            assert right == original_answers(lines)
        print(f"\ntiny-vicuna on {world.size} ranks: {np.mean(right):.1%} right")

    lead(loop, world, work)


def original_answers(lines) -> list[bool]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.models import EXAMPLE

    model = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLE)
    right = []
    with torch.inference_mode():
        for line in lines:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": line["prompt"]}], tokenize=False, add_generation_prompt=True
            )
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, pad_token_id=2
            )
            right.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == line["answer"])
    return right
