"""llama.cpp's logits of every token: python llama_logits.py FILE.gguf [KIND].

With a KIND, such as Q4_K_M, the file is quantised so first. In: of each step two int32, the first
position and how many tokens follow, then these. Out: first how many numbers a row has, as int32,
then float32 rows. What lies behind the first position is forgotten. Needs the extra `peers`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import llama_cpp as llama
import numpy as np

CONTEXT, MOST = 2048, 512  # tokens in all, and of a step


def quantised(path: Path, kind: str, folder: str) -> Path:
    how = llama.llama_model_quantize_default_params()
    how.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    how.allow_requantize = True
    made = Path(folder) / f"{kind}.gguf"
    if llama.llama_model_quantize(str(path).encode(), str(made).encode(), how):
        raise SystemExit(f"llama.cpp did not quantise {path} to {kind}")
    return made


def main(path: str, kind: str = "") -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    llama.llama_backend_init()
    with tempfile.TemporaryDirectory(prefix="mpsplit-peer-") as folder:
        file = quantised(Path(path), kind, folder) if kind else Path(path)
        model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
    room = llama.llama_context_default_params()
    room.n_ctx, room.n_batch = CONTEXT, MOST
    context = llama.llama_init_from_model(model, room)
    width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(MOST, 0, 1)
    answers.write(np.int32(width).tobytes())
    answers.flush()
    while order := sys.stdin.buffer.read(8):
        first, count = np.frombuffer(order, np.int32).tolist()
        tokens = np.frombuffer(sys.stdin.buffer.read(4 * count), np.int32).tolist()
        llama.llama_memory_seq_rm(llama.llama_get_memory(context), 0, first, -1)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, first + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if llama.llama_decode(context, batch):
            raise SystemExit(f"llama_decode failed on {count} tokens")
        answers.write(np.ctypeslib.as_array(llama.llama_get_logits(context), (count, width)).tobytes())
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
