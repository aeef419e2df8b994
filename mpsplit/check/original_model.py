"""The original model, one decoder layer at a time, so that it fits a machine that cannot hold it.

In: a Hugging Face directory. Out: hidden states after every layer and logits, in float32.

The layers are transformers' own, and so are the masks and angles around them: the whole model's
forward runs, with a single layer in it. Invariant: what is in memory of the weights is one layer,
the rows of the embedding that were asked for, and a piece of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.trace.slicing import expected_weights, ignorable, number_of, rotary_of
from mpsplit.families import Family
from mpsplit.families.roles import EMBEDDING, MLP_NORM, NORM, OUTPUT
from mpsplit.plan.cuts import WHOLE, Part, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range
from mpsplit.progress import track

HEAD_ROWS = 4096  # of the head at once


@dataclass(frozen=True)
class Change:
    """What becomes of rows of a weight, and of what is multiplied with them."""

    rows: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
    inputs: Callable[[torch.Tensor], torch.Tensor] = lambda inputs: inputs


UNCHANGED = Change()


@dataclass(frozen=True)
class Step:
    """What one decoder layer makes of a hidden state: [length, hidden] after its attention and
    after its MLP, both added."""

    attention: torch.Tensor
    mlp: torch.Tensor


class NoAttention(nn.Module):
    """Adds nothing."""

    def forward(self, hidden_states, **_):
        return torch.zeros_like(hidden_states), None


class Layer:
    """One decoder layer with its weights. Hidden states are [length, hidden], of one text from its
    first token."""

    def __init__(self, body: nn.Module, layer: nn.Module, family: Family):
        self.body, self.layer, self.family = body, layer, family
        self.name = family.layers.rpartition(".")[2]  # of the list of layers in the body

    @torch.inference_mode()
    def __call__(self, hidden: torch.Tensor) -> Step:
        between = []
        norm = self.layer.get_submodule(self.family.inside(MLP_NORM))
        hook = norm.register_forward_pre_hook(lambda _, x: between.append(x[0]))
        try:
            out = self._run(hidden)
        finally:
            hook.remove()
        return Step(between[0][0], out)

    @torch.inference_mode()
    def mlp(self, hidden: torch.Tensor) -> torch.Tensor:
        """The second half alone: from what the attention left to what the layer leaves."""
        name = self.family.half(OUTPUT)
        attention = getattr(self.layer, name)
        setattr(self.layer, name, NoAttention())
        try:
            return self._run(hidden)
        finally:
            setattr(self.layer, name, attention)

    def _run(self, hidden: torch.Tensor) -> torch.Tensor:
        setattr(self.body, self.name, nn.ModuleList([self.layer]))
        try:
            return self.body(inputs_embeds=hidden[None], use_cache=False).last_hidden_state[0]
        finally:
            setattr(self.body, self.name, nn.ModuleList())


class Original:
    def __init__(self, folder: Path):
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.checkpoint = checkpoint_of(folder)
        facts = ModelFacts.from_config(config.to_dict())
        self.family = family = facts.family
        # before hours of work, not after them
        self.checkpoint.check(expected_weights(model, facts), ignorable(facts))
        self._head = source_of(family.head, facts)
        self._vocabulary = facts.vocabulary
        self._layers, self._norm = model.get_submodule(family.layers), model.get_submodule(family.path(NORM))
        self._fill(self._norm, family.path(NORM))
        self._times, self._over = (number_of(config, n) for n in (family.embedding_times, family.logits_over))
        self._body = model.get_submodule(family.body)
        if family.embedding_times:  # embed() does it, and the body runs once a layer
            setattr(self._body, family.embedding_times, 1.0)
        model.set_submodule(family.rotary, rotary_of(model, family))
        model.set_submodule(family.path(EMBEDDING), nn.Identity())
        model.set_submodule(family.path(NORM), nn.Identity())
        model.set_submodule(family.layers, nn.ModuleList())

    def embed(self, tokens: tuple[int, ...], change: Change = UNCHANGED) -> torch.Tensor:
        """[length, hidden]"""
        distinct = sorted(set(tokens))
        rows = {t: change.rows(self._read(self.family.embedding, Part(0, Range(t, t + 1)))) for t in distinct}
        return torch.cat([rows[t] for t in tokens]) * self._times

    def layers(self) -> Iterator[Layer]:
        """Each decoder layer in its turn; the one before it is forgotten."""
        for index in track(range(len(self._layers)), "original, layer by layer"):
            # without weights: those stay only as long as this
            layer = copy.deepcopy(self._layers[index])
            self._fill(layer, self.family.layer(index))
            yield Layer(self._body, layer, self.family)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor, change: Change = UNCHANGED) -> torch.Tensor:
        """[length, vocabulary] of what the last layer left."""
        normed = change.inputs(self._norm(hidden))
        pieces = []
        for start in range(0, self._vocabulary, HEAD_ROWS):
            rows = Range(start, min(start + HEAD_ROWS, self._vocabulary))
            pieces.append(F.linear(normed, change.rows(self._read(self._head, Part(0, rows)))))
        return torch.cat(pieces, dim=1) / self._over

    def _read(self, name: str, part: Part) -> torch.Tensor:
        return torch.from_numpy(self.checkpoint.floats(name, part))

    def _fill(self, module: nn.Module, path: str) -> None:
        for name, _ in list(module.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            weight = nn.Parameter(self._read(f"{path}.{name}", WHOLE), requires_grad=False)
            setattr(module.get_submodule(owner), leaf, weight)
