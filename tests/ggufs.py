"""GGUF files of small random models, written by gguf-py as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

WORDS = {  # of a module, in the words of GGUF
    "embed_tokens": "token_embd", "input_layernorm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k",
    "v_proj": "attn_v", "o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "norm": "output_norm", "lm_head": "output",
}  # fmt: skip
IN_PAIRS = ("llama", "granite")  # families whose rows of queries and keys llama.cpp puts in pairs


def write_gguf(model: Path, path: Path, kind: str | Callable[[str], str] = "F32",
               settings: dict | None = None, parts: int = 1,
               more: dict[str, np.ndarray] | None = None, drawn: bool = False) -> Path:  # fmt: skip
    """A GGUF file of a Hugging Face folder, its linear weights in `kind`, which may depend on the
    name that transformers has, with `more` tensors; the path of the first of its parts. `drawn`:
    blocks of any bits, about as large as the weights, in the place of those."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config, tensors = json.loads((model / "config.json").read_text()), load_file(model / "model.safetensors")
    word = config["model_type"]
    writer = GGUFWriter(path, word, split_max_tensors=-(-len(tensors) // parts) if parts > 1 else 0)
    for name, value in (settings_of(config) | (settings or {})).items():
        put(writer, name, value)
    for name, numbers in tensors.items():
        *_, module, last = name.split(".")
        layer = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
        if module in ("q_proj", "k_proj") and word in IN_PAIRS:
            heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
            numbers = numbers.reshape(heads, 2, -1, *numbers.shape[1:]).swapaxes(1, 2).reshape(numbers.shape)
        linear = kind(name) if callable(kind) else kind
        stored = GGMLQuantizationType[linear if numbers.ndim == 2 else "F32"]
        data = np.ascontiguousarray(numbers, np.float32)
        blocks = drawn_blocks(data, stored.name) if drawn and stored.name in SCALES else quantize(data, stored)
        writer.add_tensor(f"{layer}{WORDS[module]}.{last}", blocks, raw_dtype=stored)
    for name, data in (more or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name(f"{path.stem}-00001-of-{parts:05}.gguf") if parts > 1 else path


def settings_of(config: dict) -> dict:
    word, rope = config["model_type"], config["rope_parameters"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    named = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if word == "granite":
        named |= {
            "embedding_scale": config["embedding_multiplier"],
            "residual_scale": config["residual_multiplier"],
            "attention.scale": float(config["attention_multiplier"]),
            "logit_scale": config["logits_scaling"],
        }
    return {f"{word}.{name}": value for name, value in named.items()}


def put(writer, name: str, value) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
              list: writer.add_array}  # fmt: skip
    adders[type(value)](name, value)


def type_named(name: str):
    from mpsplit.export.model.gguf.gguf_types import TYPES

    return next(kind for kind in TYPES.values() if kind.name == name)


def random_blocks(kind: str, count: int, seed: int = 0, scale: float = 0.02) -> np.ndarray:
    """uint8 [count, bytes of a block] whose scales are finite, of any of GGUF's types."""
    made = type_named(kind)
    numbers = np.random.default_rng(seed)
    blocks = numbers.integers(0, 256, (count, made.bytes), np.uint8)
    for at in SCALES.get(kind, ()):
        halfs = (numbers.standard_normal(count) * scale).astype(np.float16)
        blocks[:, at : at + 2] = halfs.view(np.uint8).reshape(count, 2)
    return blocks


def drawn_blocks(rows: np.ndarray, kind: str) -> np.ndarray:
    """uint8 [n, bytes of a row]: random ones, whose weights are about as large as these."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    def blocks(scale):
        return random_blocks(kind, rows.size // type_named(kind).weights, int(rows.shape[0]), scale)

    scale = rows.std() / dequantize(blocks(1.0), GGMLQuantizationType[kind]).std()
    return blocks(float(scale)).reshape(len(rows), -1)


SCALES = {  # where a block's float16 numbers are
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
