"""One rank's slice of the model as modules.

In: config, Shard. Out: a Stage whose weights have the shapes of the rank's own.

The model is built on the meta device and cut in its modules by the table of cuts. What fills them
is up to the caller: nothing, to trace; the checkpoint, to compute.

Invariant: weights keep their Hugging Face names; a group of one rank has no collectives.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from mpsplit.errors import ConvertError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.trace import operators
from mpsplit.families import Family
from mpsplit.families.roles import ATTENTION_NORM, DOWN, HEAD, MLP_NORM, NORM, OUTPUT, Role
from mpsplit.package.collectives import STAGE, WORLD
from mpsplit.package.manifest import Rope
from mpsplit.plan.cuts import Part, owned_part, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Shard

ATTENTION = "mpsplit"
# buffers that older checkpoints carry along
IGNORABLE = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")


def grouped_attention(module, query, key, value, mask, scaling=None, **_):
    """Attention with K and V unexpanded: [1, heads, length, head_dim], KV heads fewer; mask float
    [length, past + length]."""
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, grouped_attention)


class RowwiseLinear(nn.Module):
    """y = all_reduce(x[mine] @ W[:, mine].T) + b: each rank holds some input columns, all of them
    get the sum."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        partial = operators.all_reduce(F.linear(x, self.weight), STAGE)
        return partial if self.bias is None else partial + self.bias


class NoColumns(nn.Module):
    """A RowwiseLinear of no input columns: y = all_reduce(0) + b, the zeros made of any x of the
    shape of y."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.bias = linear.bias

    def forward(self, x):
        total = operators.all_reduce(x * 0, STAGE)
        return total if self.bias is None else total + self.bias


class NoAttention(nn.Module):
    """In the place of an attention of which this rank has no heads: it still takes part in the
    sum."""

    def __init__(self, attention: nn.Module, output: str):
        super().__init__()
        self.output = output
        setattr(self, output, NoColumns(getattr(attention, output)))

    def forward(self, hidden_states, **_):
        return getattr(self, self.output)(hidden_states), None


class NoMlp(nn.Module):
    """In the place of an MLP of which this rank has no columns."""

    def __init__(self, mlp: nn.Module, down: str):
        super().__init__()
        self.down = down
        setattr(self, down, NoColumns(getattr(mlp, down)))

    def forward(self, x):
        return getattr(self, self.down)(x)


# range of the Shard, where it is empty -> the half of a layer that is not there, what stands in its
# place, and the norm before it, which nobody needs
ABSENT = {"heads": (OUTPUT, NoAttention, ATTENTION_NORM), "mlp": (DOWN, NoMlp, MLP_NORM)}


class Stage(nn.Module):
    """The rank's layers between what it receives and what it hands on.

    hidden [1, length, hidden]: in the first stage the rows of the embedding that this rank owns
    (zeros elsewhere), in the others a tensor of the shape to receive. cos, sin [1, length,
    head_dim]; mask [length, past + length], additive.
    """

    def __init__(self, model: nn.Module, plan: Plan, rank: int, family: Family):
        super().__init__()
        shard = plan.shards[rank]
        self.family = family
        whole = model.get_submodule(family.layers)
        layers = {str(i): _without_absent(whole[i], shard, family) for i in shard.layers}
        place(self, family.layers, nn.ModuleDict(layers))
        self.head = bool(len(shard.head))
        if self.head:
            for role in (NORM, HEAD):
                place(self, family.path(role), model.get_submodule(family.path(role)))
        self.alone = len(plan.group(rank)) == 1
        self.sum_embedding = shard.stage == 0 and not self.alone
        self.source, self.targets = neighbours(plan, rank)
        self.embedding_times = number_of(model.config, family.embedding_times) if shard.stage == 0 else 1.0
        self.logits_over = number_of(model.config, family.logits_over)

    @property
    def layers(self) -> nn.ModuleDict:
        return self.get_submodule(self.family.layers)

    def of(self, role: Role) -> nn.Module:
        """The module outside of the layers that has this role."""
        return self.get_submodule(self.family.path(role))

    def enter(self, hidden):
        """What comes before the first layer."""
        if self.sum_embedding:
            hidden = operators.all_reduce(hidden, STAGE)
        if self.source is not None:
            hidden = operators.recv(hidden, WORLD, self.source)
        return hidden if self.embedding_times == 1 else hidden * self.embedding_times

    def forward(self, hidden, cos, sin, mask):
        hidden = self.enter(hidden)
        for layer in self.layers.values():
            hidden = layer(hidden, attention_mask=mask, position_embeddings=(cos, sin))
        for peer in self.targets:
            hidden = operators.send(hidden, WORLD, peer)
        if not self.head:
            return (hidden,)
        logits = self.of(HEAD)(self.of(NORM)(hidden))
        return hidden, logits if self.logits_over == 1 else logits / self.logits_over


def number_of(config: PreTrainedConfig, field: str | None) -> float:
    """What config.json says there; 1 where the family has no such number."""
    return float(getattr(config, field)) if field else 1.0


def place(root: nn.Module, path: str, what: nn.Module | nn.Parameter) -> None:
    """Puts it under the name that it has in the model."""
    *names, leaf = path.split(".")
    for name in names:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    setattr(root, leaf, what)


def _without_absent(layer: nn.Module, shard: Shard, family: Family) -> nn.Module:
    for owned, (role, replacement, norm) in ABSENT.items():
        if not len(getattr(shard, owned)):
            half = family.half(role)
            leaf = family.inside(role).removeprefix(f"{half}.")
            setattr(layer, half, replacement(getattr(layer, half), leaf))
            setattr(layer, family.inside(norm), nn.Identity())
    return layer


def neighbours(plan: Plan, rank: int) -> tuple[int | None, tuple[int, ...]]:
    """The rank to receive the hidden state from and those to send it to: member j of a stage hears
    from member j mod size."""
    stage = plan.shards[rank].stage
    here = plan.stages[stage]
    me = here.index(rank)
    before = plan.stages[stage - 1] if stage else ()
    after = plan.stages[stage + 1] if stage + 1 < len(plan.stages) else ()
    source = before[me % len(before)] if before else None
    return source, tuple(peer for j, peer in enumerate(after) if here[j % len(here)] == rank)


def build_whole(folder, changes: Mapping[str, int] = MappingProxyType({})) -> nn.Module:
    """The whole model on the meta device, with these changes to its config: shapes, no bytes."""
    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32).eval()


def expected_weights(model: nn.Module, facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Every weight the checkpoint must hold; a tied head lives in the embedding."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not (facts.tied and name == facts.family.head)
    }


def ignorable(facts: ModelFacts) -> tuple[str, ...]:
    """What a checkpoint may hold besides: old buffers, and the copy of a tied head."""
    return (*IGNORABLE, *([facts.family.head] if facts.tied else []))


def rotary_of(model: nn.Module, family: Family) -> nn.Module:
    """The module that makes the angles, with its numbers."""
    return type(model.get_submodule(family.rotary))(config=model.config)


def rope_of(model: nn.Module, family: Family) -> Rope:
    """The inverse frequencies as transformers itself computes them, scaling variants included."""
    rotary = rotary_of(model, family)
    return Rope(tuple(rotary.inv_freq.tolist()), float(rotary.attention_scaling))


# name, part, shape of the part -> the part in float32
Fill = Callable[[str, Part, tuple[int, ...]], torch.Tensor]


def slice_model(model: nn.Module, plan: Plan, rank: int, facts: ModelFacts, fill: Fill) -> Stage:
    """Cuts the modules of the rank's shard and fills them."""
    _agree_with_transformers(model, facts.family)
    shard = plan.shards[rank]
    stage = Stage(model, plan, rank, facts.family)
    for name, parameter in list(stage.named_parameters()):
        part = owned_part(name, shard, facts)
        shape = part.shape_of(tuple(parameter.shape))
        piece = fill(name, part, shape)
        assert piece.shape == shape, f"{name}: {piece.shape} instead of {shape}"
        module = stage.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], nn.Parameter(piece, requires_grad=False))
    for path, module in list(stage.named_modules()):
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
            role = facts.family.role_of(f"{path}.weight")
            assert role, f"{path} is not in the family's table"
            if role.cut.style == "rowwise" and not stage.alone:
                parent, _, leaf = path.rpartition(".")
                setattr(stage.get_submodule(parent), leaf, RowwiseLinear(module))
    return stage.eval()


def shapes_alone(name: str, part: Part, shape: tuple[int, ...]) -> torch.Tensor:
    """Fills nothing in: enough to trace."""
    return torch.empty(shape, device="meta")


def from_checkpoint(checkpoint: Checkpoint, facts: ModelFacts) -> Fill:
    return lambda name, part, shape: torch.from_numpy(checkpoint.floats(source_of(name, facts), part))


def _agree_with_transformers(model: nn.Module, family: Family) -> None:
    """Our family and transformers' own tensor-parallel plan must name the same cuts, where it names
    any."""
    ours = {path.removeprefix(f"{family.body}."): role.cut.style for path, role in family.modules.items()}
    for pattern, style in (model.config.base_model_tp_plan or {}).items():
        mine = next((s for p, s in ours.items() if fnmatch.fnmatchcase(pattern, p)), None)
        if style in ("colwise", "rowwise") and mine != style:
            raise ConvertError(
                f"transformers cuts {pattern} of {family.people} {style}, mpsplit/families {mine}; update one of them"
            )
