"""What a family of models says of itself.

In: nothing but the words of config.json and of checkpoints. Out: a Family, a frozen table that all
other rooms read. Invariant: whatever depends on how a model calls its parts is answered here; no
other file knows the name of a module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mpsplit.families.roles import EMBEDDING, HEAD, OUTPUT, Role

# kinds of rotary embedding whose frequencies do not depend on the length, within the model's own
# context
STATIC_ROPES = ("default", "linear", "llama3", "yarn", "dynamic")
# when sliding_window of config.json holds: never, where use_sliding_window says so, or always
NO_WINDOW, WINDOW_IF_ASKED, WINDOW = "never", "if asked", "always"


GGUF = ".gguf"  # how such files end


@dataclass(frozen=True)
class GgufWords:
    """What GGUF files call a family. `pairs`: whether rows of queries and keys that turn together
    are neighbours there. `settings`: words of config.json by those of GGUF, where the family has
    more of them than others."""

    name: str
    pairs: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """`modules`: where each role is; `*` stands for the number of a decoder layer.

    `people`: what people call it. `rotary`: the module that makes the angles. `ropes`: kinds of
    rotary embedding. `window`: when layers have a sliding window. `tied`: whether the head is the
    embedding where config.json says nothing. `embedding_times`, `logits_over`: the numbers of
    config.json that rows of the embedding are multiplied with, and logits divided by. `template`:
    the chat template of models whose tokenizer has none but the marks of chatml. `gguf`: how
    GGUF files have it, if they do.
    """

    people: str
    architectures: tuple[str, ...]
    modules: Mapping[str, Role]
    rotary: str = "model.rotary_emb"
    ropes: tuple[str, ...] = STATIC_ROPES
    window: str = NO_WINDOW
    tied: bool = False
    embedding_times: str | None = None
    logits_over: str | None = None
    template: str = "chatml"
    gguf: GgufWords | None = None

    @cached_property
    def _paths(self) -> dict[Role, str]:
        return {role: path for path, role in self.modules.items()}

    @cached_property
    def layers(self) -> str:
        """The list of decoder layers: "model.layers"."""
        return self._paths[OUTPUT].partition(".*.")[0]

    @property
    def body(self) -> str:
        """The model without its head: "model"."""
        return self.layers.rpartition(".")[0]

    @property
    def embedding(self) -> str:
        """The name of its weight."""
        return f"{self._paths[EMBEDDING]}.weight"

    @property
    def head(self) -> str:
        """The name of its weight."""
        return f"{self._paths[HEAD]}.weight"

    def path(self, role: Role) -> str:
        """The module, with a `*` where it is in each decoder layer."""
        return self._paths[role]

    def inside(self, role: Role) -> str:
        """The module within its decoder layer: "self_attn.q_proj"."""
        return self._paths[role].partition(".*.")[2]

    def half(self, role: Role) -> str:
        """The module of a decoder layer that a role belongs to: "self_attn", "mlp"."""
        return self.inside(role).partition(".")[0]

    def layer(self, number: int | str) -> str:
        """The path of a decoder layer."""
        return f"{self.layers}.{number}"

    def layer_of(self, weight: str) -> int | None:
        """The number of the decoder layer that has this weight, or module."""
        inside = weight.removeprefix(f"{self.layers}.")
        number = inside.partition(".")[0]
        return int(number) if inside != weight and number.isdecimal() else None

    def role_of(self, weight: str) -> Role | None:
        """ "model.layers.7.mlp.up_proj.bias" -> UP; None for what the family does not know."""
        number = self.layer_of(weight)
        module = weight.rpartition(".")[0]
        if number is not None:
            module = module.replace(self.layer(number), self.layer("*"), 1)
        return self.modules.get(module)
