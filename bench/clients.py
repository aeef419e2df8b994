"""Several clients at once: time to first token and tokens a second of a real server, at 1, 4 and 8
clients, interleaved.

    python bench/clients.py PACKAGE [--clients 1,4,8] [--rounds 5] [--tokens 128] [--kv f32]

Starts `mpsplit serve` and asks it over HTTP: each client sends a prompt of its own of 32 random
tokens, and all begin together. Prints medians over the rounds, and the ratio of each number of
clients to one client, round by round.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

PROMPT = 32


def ask(address: str, tokens: list[int], new: int) -> tuple[float, float]:
    """Seconds to the first token, and from there to the last one, for each; as the server tells
    them with the answer."""
    body = dict(model="x", prompt=tokens, max_tokens=new, temperature=0, ignore_eos=True)
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        told = json.load(answer)["usage"]["mpsplit"]
    return told["time_to_first_token_s"], 1 / told["tok_s"]


def round_of(address: str, clients: int, new: int, random: np.random.Generator) -> tuple[float, float, float]:
    """Medians of the clients' two times, and tokens a second of all together."""
    prompts = random.integers(5, 30000, (clients, PROMPT)).tolist()
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = list(pool.map(lambda tokens: ask(address, tokens, new), prompts))
    seconds = time.perf_counter() - began
    return median(t[0] for t in times), median(t[1] for t in times), clients * new / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--kv", default="f32")
    args = parser.parse_args()
    counts = [int(word) for word in args.clients.split(",")]
    cache = max(counts) * (args.tokens + PROMPT + 32)
    command = [
        sys.executable,
        "-m",
        "mpsplit",
        "serve",
        args.package,
        "--port",
        "0",
        "--kv",
        args.kv,
        "--model-name",
        "x",
    ]
    server = subprocess.Popen([*command, "--cache", str(max(cache, 4096))], stdout=subprocess.PIPE, text=True)
    address = re.search(r"http://\S+:\d+", server.stdout.readline())[0]
    random = np.random.default_rng(0)
    try:
        round_of(address, max(counts), args.tokens, random)  # warm
        found = [[round_of(address, n, args.tokens, random) for n in counts] for _ in range(args.rounds)]
    finally:
        server.terminate()
        server.wait()
    print("| clients | first token, ms | a token, ms | tok/s together | x one client |\n|---|---|---|---|---|")
    for i, n in enumerate(counts):
        first, each, speed = (median(row[i][j] for row in found) for j in range(3))
        ratio = median(row[i][2] / row[0][2] for row in found)
        print(f"| {n} | {first * 1e3:.0f} | {each * 1e3:.2f} | {speed:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
