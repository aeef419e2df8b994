"""config.json of a GGUF file: the same model in the words of transformers.

In: a GgufModel. Out: a dict, and names of tensors by names of weights.

Invariant: what is not understood is refused. A setting that changes the answers and is passed over
would be a wrong answer without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mpsplit.errors import ModelError
from mpsplit.export.model.gguf.gguf_header import GgufModel
from mpsplit.families import FAMILIES, Family, roles
from mpsplit.plan.cuts import linear_shape, linears_of, source_of
from mpsplit.plan.model_facts import ModelFacts

TENSORS = {  # * is the number of a layer
    roles.EMBEDDING: "token_embd",
    roles.ATTENTION_NORM: "blk.*.attn_norm",
    roles.QUERY: "blk.*.attn_q",
    roles.KEY: "blk.*.attn_k",
    roles.VALUE: "blk.*.attn_v",
    roles.QUERY_NORM: "blk.*.attn_q_norm",
    roles.KEY_NORM: "blk.*.attn_k_norm",
    roles.OUTPUT: "blk.*.attn_output",
    roles.MLP_NORM: "blk.*.ffn_norm",
    roles.GATE: "blk.*.ffn_gate",
    roles.UP: "blk.*.ffn_up",
    roles.DOWN: "blk.*.ffn_down",
    roles.NORM: "output_norm",
    roles.HEAD: "output",
}
FREQUENCIES = "rope_freqs.weight"  # what each frequency of the rotary embedding is divided by
# settings that would change the answers, and are not known here
UNKNOWN = ("expert_count", "attention.sliding_window", "attention.clamp_kqv", "attention.max_alibi_bias")
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA_3_FACTORS = (8.0, 16.0, 32.0)
CLOSE = 1e-3


def family_of(gguf: GgufModel) -> tuple[str, Family]:
    """The architecture in transformers' words, and its family."""
    word = gguf.get("general.architecture", str)
    for architecture, family in FAMILIES.items():
        if family.gguf and family.gguf.name == word:
            return architecture, family
    known = sorted({family.gguf.name for family in FAMILIES.values() if family.gguf})
    raise ModelError(f"{gguf.files[0]} holds a model of {word}; GGUF files are read of {', '.join(known)}")


def tensor_names(gguf: GgufModel) -> dict[str, str]:
    """The name of each weight in the words of transformers, by that of its tensor."""
    _, family = family_of(gguf)
    by_tensor = {TENSORS[role]: path for path, role in family.modules.items()}
    names = {}
    for name in gguf.tensors:
        module, _, last = name.rpartition(".")
        number = module.split(".")[1] if module.startswith("blk.") else ""
        path = by_tensor.get(module.replace(f"blk.{number}.", "blk.*.", 1) if number else module)
        if path:
            names[name] = f"{path.replace('*', number)}.{last}"
        elif name != FREQUENCIES:
            raise ModelError(f"{gguf.tensors[name].file} has a tensor {name!a}, which its kind of model has not")
    return names


def check_linears(gguf: GgufModel, facts: ModelFacts) -> None:
    """All are there, as large as the settings say: a plan believes these."""
    there = {weight: gguf.tensors[tensor].shape for tensor, weight in tensor_names(gguf).items()}
    for name in linears_of(facts):
        shape, expected = there.get(source_of(name, facts)), linear_shape(name, facts)
        if shape != expected:
            has = f"of shape {list(shape)}" if shape else "nowhere"
            raise ModelError(
                f"{gguf.files[0]} has {name} {has}, and its settings ask for {list(expected)}; download it again"
            )


def config_of(gguf: GgufModel) -> dict[str, Any]:
    architecture, family = family_of(gguf)
    assert family.gguf
    word = family.gguf.name

    def get(name: str, kind: type, otherwise: Any = None) -> Any:
        return gguf.get(f"{word}.{name}", kind, otherwise)

    for name in UNKNOWN:
        if gguf.settings.get(f"{word}.{name}"):
            raise ModelError(f"{gguf.files[0]} asks for {word}.{name}, which is not supported")
    heads, hidden = get("attention.head_count", int), get("embedding_length", int)
    embedding = gguf.tensors.get("token_embd.weight")
    if not heads or not embedding or len(embedding.shape) != 2:
        raise ModelError(f"{gguf.files[0]} has no attention heads, or no embedding; download it again")
    head_dim = get("attention.key_length", int, 0) or get("rope.dimension_count", int, 0) or hidden // heads
    turned = get("rope.dimension_count", int, head_dim)
    if turned != head_dim or get("attention.value_length", int, head_dim) != head_dim:
        raise ModelError(f"{gguf.files[0]} turns {turned} of {head_dim} numbers of a head; all of them are supported")
    names, layers = set(gguf.tensors), get("block_count", int)
    there = {name.split(".")[1] for name in names if name.startswith("blk.")}
    if there != set(map(str, range(len(there)))) or layers != len(there):
        raise ModelError(f"{gguf.files[0]} names {layers} layers, and has weights of {len(there)}; download it again")
    config = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "hidden_size": hidden,
        "intermediate_size": get("feed_forward_length", int),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": get("context_length", int),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon", float),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": f"{TENSORS[roles.QUERY].replace('*', '0')}.bias" in names,
        "mlp_bias": f"{TENSORS[roles.UP].replace('*', '0')}.bias" in names,
        "rope_parameters": _rope(gguf, word, head_dim),
        "bos_token_id": gguf.settings.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(gguf),
        "dtype": "float32",
    }
    return config | {name: get(theirs, float) for theirs, name in family.gguf.settings.items()}


def _ends(gguf: GgufModel) -> list[int]:
    """Of an answer, of a turn, and of a turn that goes on with a tool's."""
    ids = [gguf.settings.get(f"tokenizer.ggml.{what}_token_id") for what in ("eos", "eot", "eom")]
    return list(dict.fromkeys(end for end in ids if type(end) is int))


def _rope(gguf: GgufModel, word: str, head_dim: int) -> dict[str, Any]:
    def get(name: str, kind: type, otherwise: Any = None) -> Any:
        return gguf.get(f"{word}.rope.{name}", kind, otherwise)

    theta = get("freq_base", float, 10000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind = get("scaling.type", str, "none")
    if FREQUENCIES in gguf.tensors:
        return rope | {"rope_type": "llama3"} | _llama_3(gguf, theta, head_dim)
    if kind == "none":
        return rope
    factor, context = get("scaling.factor", float), get("scaling.original_context_length", int, 0)
    if kind not in ("linear", "yarn") or kind == "yarn" and not context:
        raise ModelError(f"{gguf.files[0]} scales its rotary embedding by {kind!a}; linear and yarn are supported")
    return (
        rope
        | {"rope_type": kind, "factor": factor}
        | ({"original_max_position_embeddings": context} if context else {})
    )


def _llama_3(gguf: GgufModel, theta: float, head_dim: int) -> dict[str, Any]:
    """The settings that these frequencies come of. The file has the frequencies alone."""
    tensor = gguf.tensors[FREQUENCIES]
    if tensor.kind.name != "F32" or tensor.shape != (head_dim // 2,):
        raise ModelError(f"{tensor.file}: {FREQUENCIES} is {tensor.kind.name} {list(tensor.shape)}; download it again")
    found = np.fromfile(tensor.file, "<f4", head_dim // 2, offset=tensor.offset)
    for factor in LLAMA_3_FACTORS:
        if np.allclose(found, _llama_3_frequencies(theta, head_dim, factor), CLOSE):
            return {"factor": factor, **LLAMA_3}
    raise ModelError(f"{tensor.file} changes the frequencies of its rotary embedding as no known model does")


def _llama_3_frequencies(theta: float, head_dim: int, factor: float) -> np.ndarray:
    low, high, context = LLAMA_3.values()
    waves = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((context / waves - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def in_pairs(gguf: GgufModel, weights: Iterable[str]) -> dict[str, int]:
    """Those whose rows are in another order than transformers has them, and how many rows a head
    has."""
    family = family_of(gguf)[1]
    size = config_of(gguf)["head_dim"]
    return {
        weight: size
        for weight in weights
        if family.gguf and family.gguf.pairs and family.role_of(weight) in (roles.QUERY, roles.KEY)
    }
