"""Texts a second: `mpsplit serve` of packages of one encoder, beside transformers with as many
threads, in turns.

    python bench/embeddings.py MODEL PACKAGE... [--lengths 32,128] [--texts 64] [--rounds 5]

A server a package, each with all cores. In a round each in turn is sent one request of so many
texts of random tokens, and transformers computes the same, one text after the other and all as one
batch. Prints medians over the rounds, and their ratios to the median of transformers' better way.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from turns import Way, in_batches, rates, table

ONE, BATCH = "transformers, one by one", "transformers, one batch"


def started(package: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "mpsplit", "serve", package, "--port", "0", "--model-name", "x"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    found = re.search(r"http://\S+:\d+", server.stdout.readline())
    assert found, f"{package} is not served; what stopped it stands above"
    return server, found[0]


def asked(address: str, ids: np.ndarray) -> float:
    began = time.perf_counter()
    body = {"input": ids.tolist(), "encoding_format": "base64"}
    request = urllib.request.Request(
        f"{address}/v1/embeddings", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        assert len(json.load(answer)["data"]) == len(ids)
    return time.perf_counter() - began


def transformers_of(folder: str, threads: int) -> dict[str, Way]:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def compute(ids: np.ndarray) -> None:
        states = model(torch.from_numpy(ids)).last_hidden_state
        torch.nn.functional.normalize(states.mean(1), dim=1).numpy()

    return {ONE: in_batches(compute, 1), BATCH: in_batches(compute)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--lengths", default="32,128")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ways = transformers_of(args.model, len(os.sched_getaffinity(0)))
    servers = []
    try:
        for package in args.packages:
            server, address = started(package)
            servers.append(server)
            ways[Path(package).name] = lambda ids, address=address: asked(address, ids)
        random = np.random.default_rng(0)
        for length in map(int, args.lengths.split(",")):
            size = (args.texts, length)
            speeds = rates(ways, lambda size=size: random.integers(1000, 30000, size), args.rounds)
            print(f"\n{length} tokens\n\n{table(speeds, 'texts', (ONE, BATCH), 'transformers')}")
    finally:
        for server in servers:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
