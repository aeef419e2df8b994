"""`mpsplit verify`: the split, converted model against the original.

In: a package, its model. Out: an Agreement.

Every rank runs its engine, which may also be the sliced modules before conversion
(export/trace/torch_engine.py). Rank 0 runs the original beside it, in float32 and a layer at a time
(check/original_model.py).

Invariant: both see the same tokens. The original generates nothing: where its best token is the
package's at every place of an answer, it would have given the same answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.check.layer_cost import LAYER_TOKENS
from mpsplit.check.likelihood import CHUNK, log_softmax
from mpsplit.check.parting import States, Witness, package_states
from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.agreement import Agreement, Distance, PartAgreement
from mpsplit.package.json_fields import flag, many, mapping, one_of, record, whole
from mpsplit.package.manifest import Manifest
from mpsplit.package.manifest_fields import SIZES
from mpsplit.package.sealed.keys import KeySource
from mpsplit.package.sealed.opened import ENVIRONMENT, graph_of
from mpsplit.package.stored.embedding import BITS, HEAD_ROWS, block_of
from mpsplit.package.stored.quantisation import FLOAT, KINDS, PARTS_BLOCK, Quantisation, coarseness
from mpsplit.package.together.exchanged import exchanged, of_rank_0, plain
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.progress import track
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.engine.replay import OneHistory
from mpsplit.runtime.load import load_loop, load_package_text
from mpsplit.runtime.loop.all_logits import all_logits
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.orders import LEAD
from mpsplit.runtime.loop.token_loop import TokenLoop

LENGTHS = (1, 7, 40)  # of the random prompts, in tokens
SENTENCES = (
    "What is the capital of France? The capital of France is Paris.",
    "The sun rose over the hills, and the village began to wake.",
    "To add two numbers, write one below the other and add their digits from the right to the left.",
)
NEW_TOKENS = 32
WAYS = plain(mapping(many(whole(1, PARTS_BLOCK), 2), SIZES))
TOKENS, MOST_PROMPTS = many(whole(0, SIZES), SIZES), 1 << 20


@dataclass(frozen=True)
class Prompt:
    tokens: tuple[int, ...]
    is_text: bool


@dataclass(frozen=True)
class Trial:
    """What to compare: the package at `package` with the model in `folder`, on the `texts` of a
    file instead of the built-in prompts."""

    package: Path
    folder: Path
    kind: str = "f32"
    texts: tuple[str, ...] = ()
    layers: bool = False
    keys: KeySource = ENVIRONMENT  # of an encrypted package


def check_model(facts: ModelFacts, folder: Path) -> None:
    from mpsplit.export.model.model_source import read_config

    if ModelFacts.from_config(read_config(folder)) != facts:
        raise RunError(
            f"{folder} is not the model of this package: their sizes differ; give the model that was partitioned"
        )


def read_texts(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        raise RunError(f"--prompts {path} cannot be read ({wrong}); give a file with one text a line") from None
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise RunError(f"--prompts {path} has {len(lines)} lines and no text; give a file with one text a line")
    return texts


def stored_kind(manifest: Manifest, trial: Trial, comm: Communicator) -> str:
    """The coarsest kind in which any rank stores a linear."""
    graph = graph_of(trial.package, manifest, comm.rank, trial.keys)
    kinds_here = {how.kind for how in map(Quantisation.of, graph.layers) if how}
    of_ranks = exchanged(comm, sorted(kinds_here), plain(many(one_of(KINDS), len(KINDS))))
    return max(set().union(*of_ranks), default=FLOAT.kind, key=coarseness)


def _kinds(manifest: Manifest, trial: Trial, comm: Communicator) -> dict[str, Quantisation]:
    """How each linear is stored, by the name of its weight; the coarsest way where ranks differ.
    Nothing is rounded before conversion."""
    if trial.kind == FLOAT.kind:
        return {}
    graph = graph_of(trial.package, manifest, comm.rank, trial.keys)
    ways = {f"{layer.name}.weight": how for layer in graph.layers if (how := Quantisation.of(layer)) and how.bits}
    kinds: dict[str, Quantisation] = {}
    for of_rank in exchanged(comm, {name: [how.bits, how.block] for name, how in ways.items()}, WAYS):
        for name, numbers in of_rank.items():
            how = Quantisation(*numbers)
            kinds[name] = max(kinds.get(name, how), how, key=lambda how: coarseness(how.kind))
    return kinds


def loop_of(engine: str | None, manifest: Manifest, trial: Trial, comm: Communicator) -> TokenLoop:
    """The package, or for `torch` the sliced modules it is made of."""
    if engine != "torch":
        return load_loop(trial.package, comm, engine=engine, keys=trial.keys)
    return TokenLoop(sliced(manifest, trial.folder, comm), comm, None)


def sliced(manifest: Manifest, folder: Path, comm: Communicator) -> Engine:
    """The sliced modules, for a loop."""
    from mpsplit.export.trace.torch_engine import TorchEngine

    class Sliced(OneHistory, TorchEngine):
        pass

    return Sliced(manifest, folder, comm)


def verify(loop: TokenLoop, comm: Communicator, trial: Trial) -> Agreement | None:
    """What all ranks find out together, on rank 0; None on the others."""
    chosen = _prompts(loop.engine.manifest, trial) if comm.rank == LEAD else ()
    prompts = of_rank_0(comm, [{"tokens": [*p.tokens], "is_text": p.is_text} for p in chosen], _prompts_of_rank_0)
    kinds = _kinds(loop.engine.manifest, trial, comm)
    states = None
    if trial.layers:
        longest = max((prompt.tokens for prompt in prompts), key=len)
        states = package_states(loop.engine, comm, trial.package, longest[:LAYER_TOKENS])
    sequences = _answered(loop, comm, prompts)
    original = None
    if comm.rank == LEAD:
        original = _Reference(trial.folder, loop.engine.manifest, sequences, states, kinds)
    comm.wait()  # as long as the original takes
    rows, plain_rows = [], []
    for number, tokens in enumerate(track(sequences, "package")):
        pieces, plain_pieces = [], []
        for start, split in _pieces(loop.engine, comm, tokens):
            if original:
                assert split is not None, "rank 0 puts the logits together"
                whole, following = original.logits(number, start), tokens[start + 1 : start + 1 + CHUNK]
                pieces.append(_compared(split, whole, following))
                plain_pieces.append(_compared(original.plain_logits(number, start), whole, following))
        if original:
            rows.append(Rows.of(pieces))
            plain_rows.append(Rows.of(plain_pieces))
    if not original:
        return None
    found = _agreement(loop.engine.name, trial.kind, prompts, sequences, rows, original.parts)
    return replace(found, rounding=_distance(prompts, plain_rows))


@dataclass(frozen=True)
class Rows:
    """A number a position: the largest difference of a logit, KL, each side's best token and its
    surprise at the token that follows (in nats; 0 after the last)."""

    apart: np.ndarray
    kl: np.ndarray
    split_best: np.ndarray
    whole_best: np.ndarray
    split_surprise: np.ndarray
    whole_surprise: np.ndarray

    @classmethod
    def of(cls, pieces: Sequence[Rows]) -> Rows:
        """One behind the other."""
        return cls(*map(np.concatenate, zip(*map(astuple, pieces), strict=True)))


class _Reference:
    """The last hidden state of every sequence, of the original and of what plain rounding makes of
    it, and the logits of some positions; where there are `states`, also how each part agrees with
    them."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        sequences: Sequence[tuple[int, ...]],
        states: States | None,
        kinds: Mapping[str, Quantisation],
    ):
        from mpsplit.check.original_model import UNCHANGED, Original
        from mpsplit.check.rounded_model import change_of, rounded_layer

        self.original = Original(folder)
        family, block = manifest.facts.family, block_of(manifest.dtype)
        head = kinds.get(family.head)
        rows = head if manifest.dtype == HEAD_ROWS else Quantisation(BITS, block) if block else None
        embedding, self.head = change_of(rows, reads=False), change_of(head)
        witness = Witness(self.original, states, embedding, self.head) if states else None
        self.hidden = [self.original.embed(tokens) for tokens in sequences]
        rounds = kinds or embedding is not UNCHANGED
        self.plain = [self.original.embed(tokens, embedding) for tokens in sequences] if rounds else self.hidden
        for index, layer in enumerate(self.original.layers()):
            plain = rounded_layer(layer, family.layer(index), kinds)
            self.hidden = [layer(hidden).mlp for hidden in self.hidden]
            self.plain = [plain(hidden).mlp for hidden in self.plain] if rounds else self.hidden
            if witness:
                witness.see(layer, plain)
        self.parts = witness.parts() if witness else ()

    def logits(self, sequence: int, start: int) -> np.ndarray:
        """float32 [up to CHUNK, vocabulary]"""
        return self.original.logits(self.hidden[sequence][start : start + CHUNK]).numpy()

    def plain_logits(self, sequence: int, start: int) -> np.ndarray:
        """The same after plain rounding."""
        return self.original.logits(self.plain[sequence][start : start + CHUNK], self.head).numpy()


def _prompts(manifest: Manifest, trial: Trial) -> tuple[Prompt, ...]:
    """Room is left for the answer."""
    text, facts = load_package_text(trial.package, manifest, trial.keys), manifest.facts
    if trial.texts and text is None:
        raise RunError("--prompts needs a tokenizer, and this package has none; leave it out")
    room = max(1, facts.context - new_tokens(facts) - 1)
    generator = np.random.default_rng(0)
    drawn = [tuple(map(int, generator.integers(0, facts.vocabulary, min(n, room)))) for n in LENGTHS]
    spoken = [tuple(text.raw(line)[:room]) for line in trial.texts or SENTENCES] if text else []
    kept = [Prompt(tokens, True) for tokens in spoken if tokens]
    return tuple(kept if trial.texts else [Prompt(tokens, False) for tokens in drawn] + kept)


def new_tokens(facts: ModelFacts) -> int:
    return min(NEW_TOKENS, facts.context // 2)


def _answered(loop: TokenLoop, comm: Communicator, prompts: tuple[Prompt, ...]) -> list[tuple[int, ...]]:
    """Each prompt and what the package says after it, on all ranks."""
    if comm.rank != LEAD:
        loop.follow()
        return of_rank_0(comm, None, _sequences_of_rank_0)
    new = new_tokens(loop.facts)
    answers = [loop.generate(Request(p.tokens, new, ignore_eos=True)).token_ids for p in track(prompts, "answers")]
    loop.end()
    mine = [[*prompt.tokens, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    return of_rank_0(comm, mine, _sequences_of_rank_0)


def _sequences_of_rank_0(data: list[list[int]]) -> list[tuple[int, ...]]:
    many(TOKENS, MOST_PROMPTS)(data, "the sequences")
    return [tuple(tokens) for tokens in data]


def _prompts_of_rank_0(data: list[dict[str, Any]]) -> tuple[Prompt, ...]:
    many(record({"tokens": TOKENS, "is_text": flag}), MOST_PROMPTS)(data, "the prompts")
    return tuple(Prompt(tuple(prompt["tokens"]), prompt["is_text"]) for prompt in data)


def _pieces(engine: Engine, comm: Communicator, tokens: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray | None]]:
    for start in range(0, len(tokens), CHUNK):
        yield start, all_logits(engine, comm, tokens[start : start + CHUNK], start)


def _compared(split: np.ndarray, whole: np.ndarray, following: tuple[int, ...]) -> Rows:
    """Of logits [positions, vocabulary] and the tokens after the positions, of which the last may
    be missing."""
    broken = ~np.isfinite(split).all(axis=-1)
    a, b = log_softmax(np.where(broken[:, None], 0, split)), log_softmax(whole)
    apart = np.abs(np.where(broken[:, None], 0, split) - whole).max(axis=-1)
    places = np.arange(len(following))
    surprises = np.zeros((2, len(whole)))
    surprises[:, places] = -a[places, following], -b[places, following]
    return Rows(
        apart=np.where(broken, np.inf, apart),
        kl=np.where(broken, np.inf, np.sum(np.exp(b) * (b - a), axis=-1)),
        split_best=np.where(broken, -1, split.argmax(axis=-1)),
        whole_best=whole.argmax(axis=-1),
        split_surprise=np.where(broken, np.inf, surprises[0]),
        whole_surprise=surprises[1],
    )


def _agreement(
    engine: str,
    kind: str,
    prompts: tuple[Prompt, ...],
    sequences: list[tuple[int, ...]],
    rows_of: list[Rows],
    parts: tuple[PartAgreement, ...],
) -> Agreement:
    greedy = []
    for prompt, tokens, rows in zip(prompts, sequences, rows_of, strict=True):
        answer = len(prompt.tokens) - 1  # the position that gives the first token of the answer
        greedy.append(rows.whole_best[answer:-1] == np.array(tokens[answer + 1 :]))
    kl = np.concatenate([rows.kl for rows in rows_of])
    far = _distance(prompts, rows_of)
    return Agreement(
        engine=engine,
        kind=kind,
        prompts=hashlib.sha256(json.dumps([prompt.tokens for prompt in prompts]).encode()).hexdigest(),
        positions=len(kl),
        max_abs=float(max(rows.apart.max() for rows in rows_of)),
        kl=far.kl,
        max_kl=float(kl.max()),
        top1=far.top1,
        greedy=float(np.mean(np.concatenate(greedy))),
        perplexity_ratio=far.perplexity_ratio,
        parts=parts,
    )


def _distance(prompts: tuple[Prompt, ...], rows_of: list[Rows]) -> Distance:
    texts = any(prompt.is_text for prompt in prompts)
    # nobody is expected to know what follows in a random prompt
    surplus = np.concatenate(
        [
            (rows.split_surprise - rows.whole_surprise)[: len(prompt.tokens) - 1]
            for prompt, rows in zip(prompts, rows_of, strict=True)
            if prompt.is_text or not texts
        ]
    )
    with np.errstate(over="ignore"):
        ratio = float(np.exp(surplus.mean())) if len(surplus) else 1.0
    return Distance(
        kl=float(np.mean(np.concatenate([rows.kl for rows in rows_of]))),
        top1=float(np.mean(np.concatenate([rows.split_best == rows.whole_best for rows in rows_of]))),
        perplexity_ratio=ratio,
        uncertain=float(surplus.std() / np.sqrt(len(surplus))) if len(surplus) and np.isfinite(ratio) else 0.0,
    )
