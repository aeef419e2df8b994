"""transformers in bfloat16: python torch_bfloat16.py MODEL"""

from __future__ import annotations

import sys

import torch
from rounds import LENGTHS, serve, timed_round
from transformers import AutoModelForCausalLM


def main(folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokens = torch.randint(model.config.vocab_size, (1, max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    past = None

    def feed(ids: torch.Tensor) -> None:
        nonlocal past
        past = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1).past_key_values

    def prefill(count: int) -> None:
        nonlocal past
        past = None
        feed(tokens[:, :count])

    def play(threads: int) -> dict[str, float]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return timed_round(prefill, lambda position: feed(tokens[:, :1]))

    serve(play)


if __name__ == "__main__":
    main(*sys.argv[1:])
