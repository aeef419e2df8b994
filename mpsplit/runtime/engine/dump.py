"""`run --dump DIR`: the hidden states and the cache of every step, as npz.

In: an Engine and a folder. Out: an Engine that also writes.

The first rank of each stage writes what all of its ranks know, DIR/step-0000-stage-0.npz; or each
rank its own, step-0000-rank-0.npz. Names and numbers are transformers': I is a layer of the model,

    hidden_states.0        [1, length, hidden]   the embedding's output, of the first stage
    hidden_states.I + 1    [1, length, hidden]   what layer I leaves; of the last layer, after the
                                                 model's last norm
    present_key.I          [1, kv_heads, length so far, head_dim]   turned; in the order of the
                                                 model's heads, each once
    present_value.I        [1, kv_heads, length so far, head_dim]
    token_ids [length], position []              what the step was given

but for a sliding window: transformers forgets what no token will see, these caches hold everything.
Invariant: all ranks dump in the same way, and what they send each other for it is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.inside.anatomy import Anatomy, anatomy_of
from mpsplit.package.manifest import FUSED, rank_folder
from mpsplit.plan.shards import Plan, Shard
from mpsplit.runtime.engine.engine_protocol import Engine, EngineSteps, Numbers, Span

HIDDEN, PRESENT = "hidden_states", ("present_key", "present_value")


@dataclass(frozen=True)
class Dump:
    """Where to write, and who."""

    folder: Path
    per_rank: bool = False

    def check(self) -> Dump:
        """Itself, when there is room for it: no earlier dump, whose steps would be mixed with
        these."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"--dump {self.folder} is a file; name a directory")
        if earlier := sorted(self.folder.glob("step-*.npz")):
            raise RunError(
                f"--dump {self.folder} holds an earlier dump of {len(earlier)} files; remove it or name another"
                " directory"
            )
        return self


@runtime_checkable
class InspectableEngine(Engine, Protocol):
    """An engine that can be looked into: the native one."""

    def keep(self, blobs: Sequence[str]) -> None:
        """From now on these blobs stay after a step."""

    def blob(self, name: str) -> np.ndarray:
        """float32 [rows, columns] of one that was kept, since the last step."""

    def batch(self, tokens: Numbers, spans: Sequence[Span], every_row: bool = False) -> np.ndarray: ...

    def keys(self, attention: int, slot: int, positions: int) -> np.ndarray:
        """float32 [kv_heads of this rank, positions, head_dim]; attentions are counted from the
        rank's first layer."""

    def values(self, attention: int, slot: int, positions: int) -> np.ndarray: ...


class Dumping(EngineSteps):
    def __init__(self, engine: Engine, package: Path, comm: Communicator, dump: Dump):
        if not isinstance(engine, InspectableEngine):
            raise RunError(
                f"--dump needs the native engine: the {engine.name} engine's cache lies in a layout of its own; "
                "leave --engine out, or run python -m mpsplit.native where it is not built"
            )
        self.engine, self.comm, self.dump = engine, comm, dump
        self.name, self.manifest, self.vocabulary = engine.name, engine.manifest, engine.vocabulary
        self.plan = self.manifest.plan
        self.shard = self.plan.shards[comm.rank]
        self.lead = self.plan.group(comm.rank)[0]
        graph = anatomy_of(rank_folder(package, comm.rank) / FUSED, self.shard.layers.start)
        self.blobs = blobs_of(graph, self.shard, self.manifest.facts.layers)
        engine.keep(list(self.blobs.values()))
        self.steps = 0
        self.span = Span(0, 0, 0)  # what the last step fed
        self.bytes_between, self.seconds_between = 0, 0.0  # of gathering, which is no part of the model
        try:
            dump.folder.mkdir(parents=True, exist_ok=True)
        except OSError as wrong:
            raise RunError(f"--dump {dump.folder} cannot be made ({wrong.strerror}); name another directory") from None

    @property
    def bytes_sent(self) -> int:
        return self.engine.bytes_sent - self.bytes_between

    @property
    def seconds(self) -> float:
        return self.engine.seconds - self.seconds_between

    def reserve(self, pages: int, stored: str) -> None:
        self.engine.reserve(pages, stored)

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        self.engine.place(slot, first, pages)

    def forget(self, pages: Numbers) -> None:
        self.engine.forget(pages)

    def batch(self, tokens: Numbers, spans: Sequence[Span], every_row: bool = False) -> np.ndarray:
        (self.span,) = spans  # several requests at once are not dumped
        logits = self.engine.batch(tokens, spans, True)  # the last hidden state of every row
        sent, waited = self.engine.bytes_sent, self.engine.seconds
        held = self._held() if self.dump.per_rank else self._gathered()
        if held is not None:
            whose = f"rank-{self.comm.rank}" if self.dump.per_rank else f"stage-{self.shard.stage}"
            held |= {"token_ids": np.asarray(tokens, np.int64), "position": np.array(self.span.position, np.int64)}
            path = self.dump.folder / f"step-{self.steps:04}-{whose}.npz"
            np.savez(path, **held)  # type: ignore[arg-type]  # no array is called allow_pickle
        self.steps += 1
        self.bytes_between += self.engine.bytes_sent - sent
        self.seconds_between += self.engine.seconds - waited
        return logits if every_row else logits[-1:]

    def close(self) -> None:
        self.engine.close()

    def _held(self) -> dict[str, np.ndarray]:
        """What this rank has, whatever others have of it."""
        arrays = {name: self.engine.blob(blob)[None] for name, blob in self.blobs.items()}
        for i in range(self.shard.attentions):
            layer = self.shard.layers.start + i
            for kind, read in zip(PRESENT, (self.engine.keys, self.engine.values), strict=True):
                arrays[f"{kind}.{layer}"] = read(i, self.span.slot, self.span.position + self.span.length)[None]
        return arrays

    def _gathered(self) -> dict[str, np.ndarray] | None:
        """What the ranks of a stage have together, on its first rank; None on the others, which
        send what it lacks."""
        held = self._held()
        if self.comm.rank != self.lead:
            heads = own_heads(self.plan, self.comm.rank)
            kept = [head - self.shard.kv_heads.start for head in heads]
            for name in sent_by(self.plan, self.comm.rank):
                self.comm.send(held[name][0] if name.startswith(HIDDEN) else held[name][0][kept], self.lead)
            return None
        for peer in self.plan.group(self.lead)[1:]:
            for name in sent_by(self.plan, peer):
                self._receive(held, name, peer)
        return held

    def _receive(self, held: dict[str, np.ndarray], name: str, peer: int) -> None:
        facts = self.manifest.facts
        if name.startswith(HIDDEN):
            held[name] = np.empty((1, self.span.length, facts.hidden), np.float32)
            self.comm.recv(held[name][0], peer)
            return
        heads = own_heads(self.plan, peer)
        received = np.empty((len(heads), self.span.position + self.span.length, facts.head_dim), np.float32)
        self.comm.recv(received, peer)
        whole = held.get(name)
        if whole is None or whole.shape[1] != facts.kv_heads:
            own_part, kv_heads = whole, self.shard.kv_heads
            whole = held[name] = np.empty((1, facts.kv_heads, *received.shape[1:]), np.float32)
            if own_part is not None:
                whole[:, kv_heads.start : kv_heads.stop] = own_part
        whole[0, list(heads)] = received


def blobs_of(graph: Anatomy, shard: Shard, layers: int) -> dict[str, str]:
    """transformers' name of a hidden state -> its blob in the graph, for those that this
    rank has."""
    blobs = {}
    if shard.stage == 0:
        blobs[f"{HIDDEN}.0"] = graph.hidden_states[0]
    for number, blob in enumerate(graph.hidden_states[1:], start=shard.layers.start + 1):
        blobs[f"{HIDDEN}.{number}"] = blob
    blobs.pop(last := f"{HIDDEN}.{layers}", None)  # before the norm it is nobody's
    return blobs | ({last: graph.normed} if graph.normed else {})


def own_heads(plan: Plan, rank: int) -> tuple[int, ...]:
    """The KV heads that no earlier rank of its stage has too."""
    earlier = {head for other in plan.group(rank) if other < rank for head in plan.shards[other].kv_heads}
    return tuple(head for head in plan.shards[rank].kv_heads if head not in earlier)


def sent_by(plan: Plan, rank: int) -> list[str]:
    """What a rank sends to the first one of its stage, in order."""
    shard = plan.shards[rank]
    names = [f"{kind}.{layer}" for layer in shard.layers for kind in PRESENT] if own_heads(plan, rank) else []
    first_head = next((other for other in plan.group(rank) if len(plan.shards[other].head)), None)
    return names + ([f"{HIDDEN}.{plan.shards[-1].layers.stop}"] if first_head == rank else [])
