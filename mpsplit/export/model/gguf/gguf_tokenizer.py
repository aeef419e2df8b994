"""The tokenizer of a GGUF file as tokenizer.json, tokenizer_config.json and chat_template.jinja.

In: a GgufModel. Out: files in a folder, or why there are none.

Two kinds are known: the byte-level one of GPT-2, which has merges and cuts texts into words first,
as the file's word for it says; and SentencePiece's of Llama, whose merges follow from its scores.

Invariant: a way of cutting words that is not known gives no tokenizer at all, for another one would
give other tokens without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mpsplit.export.model.gguf.gguf_header import GgufModel
from mpsplit.package.manifest import TEMPLATE, TOKENIZER

UNKNOWN, CONTROL, USER, UNUSED, BYTE = 2, 3, 4, 5, 6  # types of tokens; 1 are pieces of text
SPACE = "\u2581"  # what SentencePiece writes for one
CUTS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS, LINES = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{CUTS}|{WORDS}|\p{{N}}{{1,3}}|{LINES}"
QWEN = rf"{CUTS}|{WORDS}|\p{{N}}|{LINES}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class NoTokenizer(Exception):
    """Why there is none."""


def _gpt_2() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]


def _digits() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Digits(individual_digits=True), *_gpt_2()]


def _split(pattern: str) -> Callable[[], list[pre_tokenizers.PreTokenizer]]:
    def cut() -> list[pre_tokenizers.PreTokenizer]:
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return [pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_]

    return cut


@dataclass(frozen=True)
class Way:
    """How texts are cut into words. `whole_words`: one that is a token is never merged; `begins`:
    texts begin with <bos> unless the file says no; `composes`: letters and their marks become one
    first."""

    cut: Callable[[], list[pre_tokenizers.PreTokenizer]]
    whole_words: bool = False
    begins: bool = False
    composes: bool = False


BY_DIGITS = Way(_digits)
AS_LLAMA_3 = Way(_split(LLAMA_3), whole_words=True, begins=True)
AS_DBRX = Way(_split(LLAMA_3))
AS_QWEN = Way(_split(QWEN), composes=True)
WAYS = {  # by tokenizer.ggml.pre
    "gpt-2": Way(_gpt_2),
    "smollm": BY_DIGITS,
    "starcoder": BY_DIGITS,
    "refact": BY_DIGITS,
    "command-r": BY_DIGITS,
    "llama-bpe": AS_LLAMA_3,
    "llama3": AS_LLAMA_3,
    "llama-v3": AS_LLAMA_3,
    "dbrx": AS_DBRX,
    "smaug-bpe": AS_DBRX,
    "qwen2": AS_QWEN,
    "deepseek-r1-qwen": AS_QWEN,
    "tekken": Way(_split(TEKKEN), whole_words=True, begins=True),
}


def write_tokenizer(gguf: GgufModel, folder: Path) -> None:
    tokenizer = tokenizer_of(gguf)
    tokenizer.save(str(folder / TOKENIZER))
    named = {name: _token(gguf, name) for name in ("bos", "eos")}
    special = {f"{name}_token": token for name, token in named.items() if token is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, ensure_ascii=False) + "\n", encoding="utf-8")
    if gguf.settings.get("tokenizer.chat_template"):
        (folder / TEMPLATE).write_text(gguf.get("tokenizer.chat_template", str), encoding="utf-8", newline="")


def tokenizer_of(gguf: GgufModel) -> Tokenizer:
    kind = gguf.settings.get("tokenizer.ggml.model")
    if kind not in KINDS:
        raise NoTokenizer(f"its tokenizer is of kind {kind!a}; known are {' and '.join(KINDS)}")
    tokens, types = _list(gguf, "tokens", str), _list(gguf, "token_type", int)
    types = types or [1] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise NoTokenizer(f"it has {len(tokens)} tokens and {len(types)} types of them")
    if len(set(tokens)) < len(tokens):
        raise NoTokenizer("two tokens have one text")
    tokenizer = KINDS[kind](gguf, tokens, types)
    added = [
        AddedToken(token, special=type_ in (CONTROL, UNKNOWN), normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (CONTROL, USER) or type_ == UNKNOWN and kind == "llama"
    ]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    return tokenizer


def _byte_level(gguf: GgufModel, tokens: list[str], types: list[int]) -> Tokenizer:
    name = gguf.get("tokenizer.ggml.pre", str, "none named")
    if name not in WAYS:
        raise NoTokenizer(f"it cuts texts into words the way of {name!a}; known are {', '.join(WAYS)}")
    way = WAYS[name]
    merges = [tuple(merge.split(" ")) for merge in _list(gguf, "merges", str)]
    known = {token: number for number, token in enumerate(tokens)}
    wrong = next((m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= known.keys()), None)
    if wrong:
        raise NoTokenizer(f"it merges {' and '.join(wrong)!a}, which are no tokens of it")
    tokenizer = Tokenizer(BPE(known, merges, ignore_merges=way.whole_words))
    if way.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(way.cut())
    tokenizer.decoder = decoders.ByteLevel()
    _begin(tokenizer, gguf, way.begins)
    return tokenizer


def _sentence_piece(gguf: GgufModel, tokens: list[str], types: list[int]) -> Tokenizer:
    scores, known = _list(gguf, "scores", float), {token: number for number, token in enumerate(tokens)}
    if len(scores) != len(tokens):
        raise NoTokenizer(f"it has {len(tokens)} tokens and {len(scores)} scores")
    prefix = gguf.get("tokenizer.ggml.add_space_prefix", bool, True)
    unknown = tokens[types.index(UNKNOWN)] if UNKNOWN in types else None
    tokenizer = Tokenizer(
        BPE(known, _merges(known, types, scores), unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types)
    )
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    _begin(tokenizer, gguf, True)
    return tokenizer


def _merges(known: dict[str, int], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Two tokens that are a third when put together, the better third first."""
    found = []
    for token, type_, score in zip(known, types, scores, strict=True):
        if type_ in (CONTROL, UNUSED, BYTE, UNKNOWN):
            continue
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        found += [(score, pair) for pair in sorted(pairs, key=lambda pair: (known[pair[0]], known[pair[1]]))]
    found.sort(key=lambda each: each[0], reverse=True)
    return [pair for _, pair in found]


KINDS: dict[str, Callable[[GgufModel, list[str], list[int]], Tokenizer]] = {
    "gpt2": _byte_level,
    "llama": _sentence_piece,
}


def _begin(tokenizer: Tokenizer, gguf: GgufModel, usual: bool) -> None:
    """Puts <bos> before every text, and <eos> behind it, where the model wants them."""
    marks = {
        name: _token(gguf, name)
        for name, default in (("bos", usual), ("eos", False))
        if gguf.get(f"tokenizer.ggml.add_{name}_token", bool, default)
    }
    parts = [marks.get("bos"), "$A", marks.get("eos")]
    if any(marks.values()):
        try:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=" ".join(part if part == "$A" else f"{part}:0" for part in parts if part),
                special_tokens=[
                    (token, gguf.settings[f"tokenizer.ggml.{name}_token_id"]) for name, token in marks.items() if token
                ],
            )
        except ValueError as wrong:  # of a text with spaces or colons
            said = f"{list(filter(None, marks.values()))!a:.80}"
            raise NoTokenizer(f"its marks {said} cannot stand around a text: {wrong!s:.80}") from None


def _token(gguf: GgufModel, name: str) -> str | None:
    number, tokens = gguf.settings.get(f"tokenizer.ggml.{name}_token_id"), gguf.settings["tokenizer.ggml.tokens"]
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(tokens):
        raise NoTokenizer(f"its <{name}> is number {number!a} of {len(tokens)} tokens")
    return tokens[number]


def _list(gguf: GgufModel, name: str, kind: type) -> list:
    values = gguf.get(f"tokenizer.ggml.{name}", list, [])
    if any(type(value) is not kind for value in values):
        raise NoTokenizer(f"tokenizer.ggml.{name} is no list of {kind.__name__}s")
    return values
