"""llama.cpp by the C functions of llama-cpp-python: python llama.py FILE.gguf.

Needs the extra `peers`.
"""

from __future__ import annotations

import sys

import llama_cpp as llama
from rounds import CONTEXT, LENGTHS, serve, timed_round


def main(path: str) -> None:
    llama.llama_backend_init()
    how = llama.llama_model_default_params()
    how.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(path.encode(), how)
    if not model:
        raise SystemExit(f"llama.cpp does not load {path}")
    room = llama.llama_context_default_params()
    room.n_ctx = CONTEXT
    room.n_batch = room.n_ubatch = max(LENGTHS)
    context = llama.llama_init_from_model(model, room)
    tokens = (llama.llama_token * CONTEXT)(*(259 + i * 7919 % 4000 for i in range(CONTEXT)))

    def feed(count: int) -> None:
        """Appends; llama.cpp counts the positions itself."""
        if llama.llama_decode(context, llama.llama_batch_get_one(tokens, count)):
            raise SystemExit(f"llama_decode failed on {count} tokens")
        llama.llama_synchronize(context)

    def prefill(count: int) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        feed(count)

    def play(threads: int) -> dict[str, float]:
        llama.llama_set_n_threads(context, threads, threads)
        return timed_round(prefill, lambda position: feed(1))

    serve(play)


if __name__ == "__main__":
    main(*sys.argv[1:])
