"""How answers are to be, from whoever says so.

In: layers of named values, the weaker before the stronger. Out: Settings.

A layer is a file (--config), a session (the command line of `chat`, then /set) or one call (the
command line of `run`); what none names is as in Settings. A preset counts as values of its own
layer, weaker than those that the layer names one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mpsplit.errors import RunError
from mpsplit.package.named_templates import TEMPLATES, named_template
from mpsplit.runtime.choose.sampling import PRESETS, Sampling, biases_of

Layer = dict[str, Any]  # values of the kinds that SETTINGS name
REFUSE, SLIDE = "refuse", "slide"  # what to do with a conversation that does not fit the context
FIRST = 64  # tokens that stay where it slides


@dataclass(frozen=True)
class Settings:
    """Without a `template` the tokenizer's own, without a `system` message what the template says
    then."""

    sampling: Sampling = Sampling()
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    template: str = ""
    system: str = ""
    when_full: str = REFUSE

    def fitted(self, prompt: tuple[int, ...], context: int) -> tuple[tuple[int, ...], int]:
        """The prompt with room for an answer behind it, and how many of its tokens that left out:
        those after the first FIRST."""
        room = context - min(self.max_new_tokens, context // 2)
        out = len(prompt) - room
        if self.when_full != SLIDE or out <= 0:
            return prompt, 0
        first = min(FIRST, room // 2)
        return prompt[:first] + prompt[first + out :], out

    def messages(self, talk: list[dict]) -> list[dict]:
        """A conversation with its system message."""
        return [{"role": "system", "content": self.system}, *talk] if self.system else talk


class Kind(NamedTuple):
    """`says` what a value must be; `types` are those of JSON."""

    says: str
    types: tuple[type, ...]
    read: type  # from text


NUMBER, WHOLE = Kind("a number", (float, int), float), Kind("a whole number", (int,), int)
TEXT, TEXTS = Kind("a text", (str,), str), Kind("a text or a list of texts", (str, list), str)


BIASES = Kind("a map from token ids to numbers, such as 5:-100", (dict, str), str)


class Setting(NamedTuple):
    kind: Kind
    metavar: str
    help: str


SETTINGS = {
    "preset": Setting(TEXT, "NAME", f"sampling by name: {', '.join(PRESETS)}; the options here change it"),
    "max_new_tokens": Setting(WHOLE, "N", "longest answer (default: 64; over HTTP as in OpenAI's API)"),
    "temperature": Setting(NUMBER, "T", "0 is greedy (default)"),
    "top_k": Setting(WHOLE, "K", "choose among the k likeliest, 0 for all (default)"),
    "top_p": Setting(NUMBER, "P", "choose among the likeliest that make up p (default: 1)"),
    "min_p": Setting(NUMBER, "P", "leave out what is less than p times as likely as the likeliest (default: 0)"),
    "min_keep": Setting(WHOLE, "N", "leave so many to choose among at least (default: 1)"),
    "repetition_penalty": Setting(NUMBER, "X", "above 1 repeats less (default: 1)"),
    "presence_penalty": Setting(NUMBER, "X", "from the logit of what occurs, -2 to 2 (default: 0)"),
    "frequency_penalty": Setting(NUMBER, "X", "from it for each time that it occurs, -2 to 2 (default: 0)"),
    "logit_bias": Setting(
        BIASES, "ID:X,...", "to the logits of these tokens, from -100 (never) to 100 (nearly always)"
    ),
    "penalty_window": Setting(WHOLE, "N", "tokens that penalties look back, prompt and all, 0 for all (default)"),
    "seed": Setting(WHOLE, "N", "same seed, same answer, at any number of ranks (default: 0)"),
    "stop": Setting(TEXTS, "TEXT", "end the answer before this text (may be repeated)"),
    "template": Setting(TEXT, "NAME", f"another chat template than the tokenizer's own: {', '.join(TEMPLATES)}"),
    "system": Setting(TEXT, "TEXT", "what the model is told before the conversation"),
    "when_full": Setting(
        TEXT,
        "WHAT",
        f"{REFUSE} a conversation beyond the context (default), or {SLIDE}: keep its first {FIRST} tokens and the last",
    ),
}
SAMPLING = tuple(field.name for field in fields(Sampling))


# of what may be said in two ways, the one that a layer has
LAID_DOWN: dict[Kind, Callable[[Any], tuple]] = {
    TEXTS: lambda value: (value,) if type(value) is str else tuple(value),
    BIASES: biases_of,
}


def layer(named_values: Mapping[str, Any], where: str) -> Layer:
    """The values by their names, each of its kind; a name may have hyphens."""
    values: Layer = {}
    for word, value in named_values.items():
        name = word.replace("-", "_")
        if name not in SETTINGS:
            near = get_close_matches(name, SETTINGS, 1, 0.5)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}"
            raise RunError(f"{where}: there is no setting {word!r}; {remedy}")
        kind = SETTINGS[name].kind
        if type(value) not in kind.types or type(value) is list and not all(type(text) is str for text in value):
            raise RunError(f"{where}: {name} must be {kind.says}, not {json.dumps(value, default=repr)[:80]}")
        values[name] = LAID_DOWN[kind](value) if kind in LAID_DOWN else value
    return values


def pair(text: str, where: str) -> Layer:
    """Of "temperature=0.7"."""
    word, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise RunError(f"{where}: {text.strip()!r} must be NAME=VALUE, such as temperature=0.7")
    kind = SETTINGS[name].kind if (name := word.replace("-", "_")) in SETTINGS else TEXT
    try:
        return layer({word: kind.read(value)}, where)
    except ValueError:
        raise RunError(f"{where}: {name} must be {kind.says}, not {value!r}") from None


def read_config(path: Path) -> Layer:
    """Of a JSON object, or of lines `name = value`; # and ; begin a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise RunError(f"--config {path} cannot be read ({getattr(wrong, 'strerror', wrong)})") from None
    if text.lstrip().startswith("{"):
        try:
            return layer(json.loads(text), str(path))
        except (ValueError, RecursionError) as wrong:
            raise RunError(f"{path} is no JSON ({wrong})") from None
    values: Layer = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and line.strip()[0] not in "#;":
            read = pair(line, f"{path}:{number}")
            again = values.keys() & read.keys() - {"stop"}
            if again:
                raise RunError(f"{path}:{number}: {again.pop()} is set a second time")
            values |= {name: values.get(name, ()) + value if name == "stop" else value for name, value in read.items()}
    return values


def merged(*layers: Layer) -> Settings:
    """The later layers before the earlier; checked as a whole."""
    values: Layer = {}
    for each in layers:
        values |= _preset(each["preset"]) if "preset" in each else {}
        values |= {name: value for name, value in each.items() if name != "preset"}
    if values.get("template"):
        named_template(values["template"])
    if (when_full := values.get("when_full", REFUSE)) not in (REFUSE, SLIDE):
        raise RunError(f"when_full {when_full!r}: there are {REFUSE} and {SLIDE}")
    if (longest := values.get("max_new_tokens", 1)) < 1:
        raise RunError(f"max_new_tokens {longest} is out of range; it must be at least 1")
    if "" in values.get("stop", ()):
        raise RunError("a stop text is empty; leave it out")
    sampling = {name: values.pop(name) for name in SAMPLING if name in values}
    return Settings(sampling=replace(Sampling(), **sampling).check(), **values)


def changed(before: Layer, change: Layer) -> Layer:
    """A layer after a change; a preset takes the place of all that was said of sampling before, but
    the seed."""
    kept = before if "preset" not in change else {k: v for k, v in before.items() if k not in SAMPLING or k == "seed"}
    return kept | change


def _preset(name: str) -> Layer:
    """All of how to sample but the seed."""
    if name not in PRESETS:
        raise RunError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return {key: value for key, value in asdict(PRESETS[name]).items() if key != "seed"}


def shown(settings: Settings) -> str:
    """A line for each setting, as /set takes it."""
    values = asdict(settings) | asdict(settings.sampling)
    return "\n".join(f"{name}={_word(values[name])}" for name in SETTINGS if name != "preset")


def _word(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{token}:{bias:g}" for token, bias in value)
    if isinstance(value, tuple):
        return " ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
