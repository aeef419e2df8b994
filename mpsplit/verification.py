"""`mpsplit verify`: the split, converted model against the original. In: a package, its model. Out: how far they are apart.

Every rank runs its engine, which may also be the sliced modules before conversion (export/torch_engine.py); rank 0 runs the
original beside it, in float32, through transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.plan.model import ModelFacts
from mpsplit.progress import track
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.generate import Request, TokenLoop
from mpsplit.runtime.orders import LEAD

LENGTHS = (1, 7, 40)  # of the prompts, in tokens
NEW_TOKENS = 32


@dataclass(frozen=True)
class Difference:
    """`max_abs` and `kl` (mean, in nats) over all positions of all prompts; `greedy` is the share of equal greedy tokens."""

    max_abs: float
    kl: float
    top1: float
    greedy: float
    positions: int

    def within(self, tolerance: float) -> bool:
        return self.max_abs <= tolerance and self.greedy == 1


def check_model(facts: ModelFacts, folder: Path) -> None:
    from mpsplit.export.source import read_config

    if ModelFacts.from_config(read_config(folder)) != facts:
        raise RunError(
            f"{folder} is not the model of this package: their sizes differ; give the model that was partitioned"
        )


def verify(loop: TokenLoop, comm: Communicator, folder: Path) -> Difference | None:
    """The difference, on rank 0; None on the others, which take part."""
    facts = loop.facts
    generator = np.random.default_rng(0)
    prompts = [
        tuple(map(int, generator.integers(0, facts.vocabulary, min(n, facts.context - NEW_TOKENS - 1))))
        for n in LENGTHS
    ]
    split = [all_logits(loop.engine, comm, prompt) for prompt in prompts]
    if comm.rank != LEAD:
        loop.follow()
        return None
    tokens = [loop.generate(Request(prompt, NEW_TOKENS, ignore_eos=True)).token_ids for prompt in prompts]
    loop.end()
    whole, expected = original(folder, prompts)
    a, b = np.concatenate(split), np.concatenate(whole)
    same = [x == y for mine, theirs in zip(tokens, expected, strict=True) for x, y in zip(mine, theirs, strict=True)]
    return Difference(
        max_abs=float(np.abs(a - b).max()),
        kl=float(np.mean(np.sum(np.exp(_log_softmax(b)) * (_log_softmax(b) - _log_softmax(a)), axis=-1))),
        top1=float(np.mean(a.argmax(-1) == b.argmax(-1))),
        greedy=float(np.mean(same)),
        positions=len(a),
    )


def all_logits(engine: Engine, comm: Communicator, prompt: tuple[int, ...]) -> np.ndarray | None:
    """float32 [tokens, vocabulary] on rank 0, put together from the ranks' rows of the head."""
    own = engine.step(prompt, 0, every_row=True)
    if comm.rank != LEAD:
        if own.shape[1]:
            comm.send(own, LEAD)
        return None
    parts = []
    for shard in engine.manifest.plan.shards:
        if len(shard.head):
            part = np.empty((len(prompt), len(shard.head)), np.float32) if shard.rank != LEAD else own
            if shard.rank != LEAD:
                comm.recv(part, shard.rank)
            parts.append(part)
    return np.concatenate(parts, axis=1)


def original(folder: Path, prompts: list[tuple[int, ...]]) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
    """transformers' logits for every position, and its greedy tokens."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    logits, tokens = [], []
    with torch.inference_mode():
        for prompt in track(prompts, "original"):
            ids = torch.tensor([prompt])
            logits.append(model(ids).logits[0].numpy())
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
            )
            tokens.append(tuple(out[0, len(prompt) :].tolist()))
    return logits, tokens


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
