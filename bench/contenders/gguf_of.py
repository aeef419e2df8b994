"""A random Llama of ours as llama.cpp's files: python gguf_of.py CHECKPOINT OUT.gguf KIND [OUT.gguf
KIND ...]

KIND is q4_0, q4_k_m, q6_k, iq4_xs, ...: any that llama.cpp makes. The rows of q and k stay in
Hugging Face's order, which changes no timing; the vocabulary is dummy words. Needs the extra
`peers`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import llama_cpp as llama
import numpy as np

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    name = name.removesuffix(".weight")
    if name in NAMES:
        return f"{NAMES[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def tensors(file: Path):
    """(name, bfloat16 as float32) of a safetensors file: a length, a JSON header, the bytes."""
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int(data[:8].view("<u8")[0])
    for name, entry in json.loads(bytes(data[8:start])).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", entry
            begin, end = entry["data_offsets"]
            bits = data[start + begin : start + end].view(np.uint16)
            yield name, (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def write(checkpoint: Path, out: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama":
        raise SystemExit(f"{checkpoint} is a {config['model_type']}; this writes only llama")
    file = gguf.GGUFWriter(out, "llama")
    file.add_context_length(config["max_position_embeddings"])
    file.add_embedding_length(config["hidden_size"])
    file.add_block_count(config["num_hidden_layers"])
    file.add_feed_forward_length(config["intermediate_size"])
    file.add_head_count(config["num_attention_heads"])
    file.add_head_count_kv(config["num_key_value_heads"])
    file.add_rope_dimension_count(config["head_dim"])
    file.add_rope_freq_base(10000.0)
    file.add_layer_norm_rms_eps(config["rms_norm_eps"])
    file.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_words(file, config["vocab_size"])
    for part in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in tensors(part):
            file.add_tensor(gguf_name(name), tensor if tensor.ndim == 1 else tensor.astype(np.float16))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def _add_words(file: gguf.GGUFWriter, count: int) -> None:
    kind = gguf.TokenType
    special, bytes_ = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    words = special + bytes_ + [f"word{i}" for i in range(count - 259)]
    file.add_tokenizer_model("llama")
    file.add_token_list(words)
    file.add_token_scores([0.0] * count)
    file.add_token_types([kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL] * (count - 259))
    file.add_vocab_size(count)


def main(checkpoint: str, *wanted: str) -> None:
    first = Path(wanted[0])
    half = first.with_name(f".{first.stem}.f16.partial")
    try:
        write(Path(checkpoint), half)
        for path, kind in zip(wanted[::2], wanted[1::2], strict=True):
            how = llama.llama_model_quantize_default_params()
            how.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
            partial = Path(path).with_suffix(".partial")
            if llama.llama_model_quantize(str(half).encode(), str(partial).encode(), how):
                raise SystemExit(f"llama.cpp did not quantise to {kind}")
            partial.rename(path)
    finally:
        half.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
