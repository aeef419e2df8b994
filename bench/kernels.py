"""How near QLinear comes to the memory at one row, and how many operations a second it does at
many.

    python bench/kernels.py [--bits 4 6 8 16 19 20 36 37 70 100] [--block 32] [--path vnni] [--json]

Method: copies of a matrix of 11008 x 4096, never less than 300 MB together, more than any cache
here. A round decodes every copy once (one row) and reads every copy once, one after the other and
half the copies apart, so that a neighbour's load falls on both and neither finds the other's lines
in a cache. GB/s are medians over rounds, "of read" the median of the rounds' ratios, "best" the
ratio of the fastest rounds. GOP/s counts 2 * rows * n * k on two of the matrices, and includes
quantising x.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from mpsplit.native.cpp import kernels
from mpsplit.package.stored.quantisation import PARTS_BLOCK, Quantisation

N, K, WORKING_SET, MATRICES_OF_PREFILL = 11008, 4096, 320e6, 2


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def aligned(array: np.ndarray, copies: int) -> np.ndarray:
    """[copies, bytes], every row at a multiple of 64 bytes, as in a mapped file."""
    buffer = np.empty(copies * array.size + 64, np.uint8)
    rows = buffer[-buffer.ctypes.data % 64 :][: copies * array.size].reshape(copies, array.size)
    rows[:] = array
    return rows


def values_of(how: Quantisation) -> np.ndarray:
    if how.by_table:
        return np.array(how.table, np.int8)
    low = 0 if how.has_minimum else how.lowest
    return np.arange(low, low + (1 << how.stored_bits), dtype=np.int8)


def measure(kernels, bits: int, block: int, path: str, threads: int, rounds: int) -> dict:
    rng = np.random.default_rng(0)
    how = Quantisation(bits, PARTS_BLOCK if Quantisation(bits).parts else block)
    if how.is_given:  # as integers alone
        block, numbers = how.block, rng.integers(0, 8, (N, K // how.block * how.numbers)).astype(np.float32)
        integers = rng.choice(values_of(how), (N, K))
        packed = kernels.pack_values(integers, numbers, bits, block, 2)
    else:
        packed = kernels.pack(rng.standard_normal((N, K), np.float32), bits, block, 2)
    copies = aligned(packed, int(-(-WORKING_SET // packed.size)))
    matrices = [kernels.Weights(copy, N, K, bits, block) for copy in copies]
    rows = {count: rng.standard_normal((count, K), np.float32) for count in (1, 128, 512)}

    def decode(i: int):
        kernels.linear(rows[1], matrices[i], threads=threads, path=path)

    def read(i: int):
        kernels.read_through(copies[i], threads)

    def prefill(count: int):
        for matrix in matrices[:MATRICES_OF_PREFILL]:
            kernels.linear(rows[count], matrix, threads=threads, path=path)

    times = {"read": [], "decode": [], "128": [], "512": []}
    for _ in range(rounds):
        once = {"read": 0.0, "decode": 0.0}
        for i in range(len(copies)):
            once["decode"] += seconds(lambda i=i: decode(i))
            once["read"] += seconds(lambda i=i: read((i + len(copies) // 2) % len(copies)))
        for name, value in once.items():
            times[name].append(value)
        times["128"].append(seconds(lambda: prefill(128)))
    times["512"] = [seconds(lambda: prefill(512)) for _ in range(rounds)]

    def operations(count: int) -> float:
        return 2e-9 * count * N * K * MATRICES_OF_PREFILL / statistics.median(times[str(count)])

    gigabytes = copies.size / 1e9
    return {
        "bits": bits,
        "threads": threads,
        "read GB/s": gigabytes / statistics.median(times["read"]),
        "decode GB/s": gigabytes / statistics.median(times["decode"]),
        "of read": statistics.median(r / d for r, d in zip(times["read"], times["decode"], strict=True)),
        "best": min(times["read"]) / min(times["decode"]),
        "GOP/s 128": operations(128),
        "GOP/s 512": operations(512),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--path", default="", help="instruction path; the best of this machine when not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    module = kernels()
    results = []
    for bits in args.bits:
        for threads in args.threads:
            result = measure(module, bits, args.block, args.path, threads, args.rounds)
            results.append(result)
            if not args.json:
                if len(results) == 1:
                    print(
                        f"path {args.path or module.paths()[-1]}, block {args.block}\n"
                        + " ".join(f"{c:>12}" for c in result)
                    )
                print(
                    " ".join(f"{v:12.2f}" if isinstance(v, float) else f"{v:>12}" for v in result.values()), flush=True
                )
    if args.json:
        print(json.dumps({"path": args.path or module.paths()[-1], "block": args.block, "results": results}, indent=2))


if __name__ == "__main__":
    main()
