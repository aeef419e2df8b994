"""Which weight is stored how.

In: "q4" and "lm_head=q8,layers.0.*=q6/64" from the command line. Out: a Recipe.

The layout says whose kernels read what is quantised: ours ("native"), or those of any ncnn, which
have no bfloat16.

A pattern names whole words of a module's name, as `mlp.down_proj` does of
model.layers.3.mlp.down_proj; `*` stands for any letters, `embed` for the embedding. Invariant: the
last pattern that names a weight decides, and every pattern names one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from mpsplit.errors import ConvertError
from mpsplit.families import FAMILIES
from mpsplit.families.roles import EMBEDDING, KEY, VALUE
from mpsplit.package.stored.quantisation import BFLOAT, KINDS, ROUNDED, TERMS, Quantisation
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import TIED, shared_kind

SCALES = ("minmax", "mse")
LAYOUTS = NATIVE, NCNN = ("native", "ncnn")
METHODS = ("gptq", "awq", "awq+gptq")  # of calibration, the first where none is asked for
# what names the embedding; no pattern for linears does so by chance
EMBEDDING_NAMES = {"embed"} | {
    path.split(".", start)[-1]
    for path in (family.path(EMBEDDING) for family in FAMILIES.values())
    for start in range(path.count(".") + 1)
}
# besides the checkpoint's own 16 or 32 bits, which it has without a pattern
EMBEDDING_KINDS = ("q8",)


def text_of(stored: Quantisation) -> str:
    return f"{stored.kind}/{stored.block}"


def quantisation_of(text: str, block: int) -> Quantisation:
    """ "q8/64", or "q8" with the block of the rest"""
    kind, slash, given = text.partition("/")
    if slash and not given.isdecimal():
        raise ConvertError(f"{text!r} is no kind of weight; write q8, or q8/64 for blocks of 64")
    return Quantisation.named(kind, int(given) if slash else block)


@dataclass(frozen=True)
class Rule:
    pattern: str
    how: Quantisation

    def names(self, weight: str) -> bool:
        """Whether it names this linear."""
        return fnmatch.fnmatchcase(f".{weight.removesuffix('.weight')}.", f"*.{self.pattern}.*")

    @property
    def names_embedding(self) -> bool:
        return self.pattern in EMBEDDING_NAMES


@dataclass(frozen=True)
class Recipe:
    default: Quantisation = Quantisation()
    rules: tuple[Rule, ...] = ()
    scales: str = "minmax"
    layout: str = NATIVE
    own: bool = False

    @classmethod
    def parse(
        cls, kind: str | None, block: int, overrides: str = "", scales: str = "minmax", layout: str = NATIVE
    ) -> Recipe:
        """`overrides`: PATTERN=KIND[/BLOCK], with commas between them. Without a kind, `own` blocks
        where the checkpoint has such, else float32."""
        if scales not in SCALES:
            raise ConvertError(f"--scales {scales}: there are {' and '.join(SCALES)}")
        if layout not in LAYOUTS:
            raise ConvertError(f"--layout {layout}: there are {' and '.join(LAYOUTS)}")
        rules = []
        for word in filter(None, (word.strip() for word in overrides.split(","))):
            pattern, equals, text = word.partition("=")
            if not (pattern and equals and text):
                raise ConvertError(f"--quant-for {word}: write PATTERN=KIND, as in lm_head=q8 or layers.0.*=q6/64")
            rules.append(Rule(pattern, quantisation_of(text, block)))
        default = Quantisation.named(kind or "f32", block)
        for how in (default, *(rule.how for rule in rules)):
            if how.is_given:
                raise ConvertError(
                    f"{how.kind} is what blocks of a GGUF file are kept as; ask for {', '.join(ROUNDED)}, or leave the"
                    " weight out"
                )
        if layout == NCNN:  # which knows no table
            default, rules = default.evenly, [replace(rule, how=rule.how.evenly) for rule in rules]
        stored = (default, *(rule.how for rule in rules)) if layout == NCNN else ()
        if unknown := next((how for how in stored if how.bits and how not in TERMS.values()), None):
            what = "bfloat16" if unknown.bits == BFLOAT else f"{unknown.stored_bits} bits"
            raise ConvertError(f"ncnn's own layout has no {what}; use q8, q6, q4 or f32, or leave --layout ncnn out")
        return cls(default, tuple(rules), scales, layout, own=kind is None and layout == NATIVE)

    def kind_of(self, weight: str) -> Quantisation:
        """How the linear of this name is stored."""
        return next((rule.how for rule in reversed(self.rules) if rule.names(weight)), self.default)

    @property
    def embedding(self) -> Quantisation | None:
        """How the embedding is stored; None for the checkpoint's own type."""
        return next((rule.how for rule in reversed(self.rules) if rule.names_embedding), None)

    def for_model(self, facts: ModelFacts) -> Recipe:
        """The same with more bits for what counts for more than its share in a model like this,
        where no pattern asks otherwise."""
        recipe = self.for_shared_heads(facts)
        return recipe.for_tied(facts.family.head) if facts.tied else recipe

    def for_tied(self, head: str) -> Recipe:
        """The same for a model whose head, of this name, is the embedding too: in fewer than 8 bits
        only where a pattern asks for it."""
        if not 0 < self.default.stored_bits < KINDS[TIED]:
            return self
        how = self.embedding or Quantisation.named(TIED, self.default.block)
        return replace(self, rules=(Rule(head.removesuffix(".weight"), how), *self.rules))

    def for_shared_heads(self, facts: ModelFacts) -> Recipe:
        """The same for a model whose query heads share keys and values: in as few bits as the
        rest only where a pattern asks for it, if these are few."""
        finer = Quantisation.named(shared_kind(facts, self.default.kind), self.default.block)
        if finer == self.default:
            return self
        rules = tuple(Rule(facts.family.inside(role), finer) for role in (KEY, VALUE))
        return replace(self, rules=(*rules, *self.rules))

    def one_kind(self, head: str) -> bool:
        """Whether one matrix can be a tied head and the embedding: nobody wants the embedding
        otherwise, and its rows can be read."""
        stored = self.kind_of(head)
        return self.embedding in (None, stored) and not (self.layout == NCNN and stored.bits)

    def check(self, linears: Collection[str], hidden: int) -> None:
        """`linears`: the names of all linear weights of the model, not of one rank alone."""
        for rule in self.rules:
            if not (rule.names_embedding or any(map(rule.names, linears))):
                known = ", ".join(dict.fromkeys(name.removesuffix(".weight").split(".", 3)[-1] for name in linears))
                raise ConvertError(
                    f"--quant-for {rule.pattern}={rule.how.kind} names no weight; there are embed, {known}, and"
                    " layers.N before them"
                )
        how = self.embedding
        if how and how.kind not in EMBEDDING_KINDS:
            raise ConvertError(
                f"--quant-for embed={how.kind}: rows of the embedding are stored as {' or '.join(EMBEDDING_KINDS)}, or"
                " as in the checkpoint"
            )
        if how and not how.fits(hidden):
            raise ConvertError(
                f"--quant-for embed={how.kind}: rows of {hidden} are no multiple of the block of {how.block}; "
                f"write embed={how.kind}/32 if that divides them, or leave embed out"
            )

    def __str__(self) -> str:
        rules = ", ".join(f"{rule.pattern}={text_of(rule.how)}" for rule in self.rules)
        layout = f", {self.layout} layout" if self.layout != NATIVE else ""
        return f"{text_of(self.default)}{f', {rules}' if rules else ''}, {self.scales} scales{layout}"

    @classmethod
    def of_text(cls, text: str) -> Recipe:
        """The kinds of what `str` told, for programs that know a package's manifest alone."""
        default, *rest = text.split(", ")
        rules = [rule.partition("=") for rule in rest if "=" in rule]
        return cls(
            quantisation_of(default, 0),
            tuple(Rule(pattern, quantisation_of(how, 0)) for pattern, _, how in rules),
        )

    def to_json(self) -> dict[str, Any]:
        rules = [[rule.pattern, text_of(rule.how)] for rule in self.rules]
        return {"default": text_of(self.default), "rules": rules, "scales": self.scales, "layout": self.layout}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        rules = tuple(Rule(pattern, quantisation_of(text, 0)) for pattern, text in data["rules"])
        return cls(quantisation_of(data["default"], 0), rules, data["scales"], data["layout"])
