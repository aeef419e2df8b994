r"""Tokens a second of a package: by the formula, by the simulation, and as it runs here.

    mpsplit probe --ranks 2 --threads 1 --out cluster-2.json        # and so on
    python bench/simulated.py --random llama-330m --ranks 1 2 4 \
        --cluster cluster-1.json cluster-2.json cluster-4.json
    python bench/simulated.py build/vicuna --cluster cluster-2.json --measured bench.json

For each number of ranks the cluster is the file with as many devices, or else the first devices of
the largest one. What is measured is `mpsplit bench --json`, run now or kept from before. Its
prompts and its tokens are those that are predicted; it chooses no tokens, so that predictions hold
a little more than what is measured: orders, answers, and what a token takes beside its layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mpsplit.errors import ClusterError, MpsplitError
from mpsplit.export.random_package import package_path
from mpsplit.measure.bench import Work
from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.cluster_json import load_cluster
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.simulation import simulate
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.price.weather import Weather

CHUNK = 512  # mpsplit bench's


def measured(what: Sequence[str], threads: int, repeat: int) -> dict:
    """What `mpsplit bench` says of it, in ranks of its own."""
    words = [*what, "--threads", threads, "--repeat", repeat, "--chunk", CHUNK, "--json"]
    command = [sys.executable, "-m", "mpsplit", "bench", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def choose(clusters: Sequence[Cluster], ranks: int) -> Cluster:
    fitting = next((cluster for cluster in clusters if cluster.size == ranks), None)
    largest = max(clusters, key=lambda cluster: cluster.size)
    if not fitting and largest.size < ranks:
        raise ClusterError(f"the largest cluster has {largest.size} devices, {ranks} are needed; probe {ranks} ranks")
    return fitting or largest.only(range(ranks))


def rows(manifest: Manifest, cluster: Cluster, speed: dict, weather: Weather) -> list[dict]:
    """Decode and the prompts of one package, in tokens a second."""
    facts, plan, work = manifest.facts, manifest.plan, Work.within(manifest.facts.context)

    def row(name: str, tokens: int, prompt: int, pick: str, real: float) -> dict:
        job = Job(speed["quant"], context=facts.context, prompt=prompt, new=work.new, chunk=CHUNK)
        found = simulate(facts, plan, cluster, job, weather, tokens=work.new)
        cost = price(facts, plan, cluster, job)
        rates = dict(formula=tokens / getattr(cost, pick), simulated=tokens / getattr(found, pick), measured=real)
        return dict(ranks=plan.ranks, what=name, **rates)

    prompts = sorted((int(length), rate) for length, rate in speed["prefill"].items())
    return [row("decode", 1, min(work.lengths), "token", speed["decode"])] + [
        row(f"prefill {length}", length, length, "first_token", rate) for length, rate in prompts
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("package", nargs="?")
    arguments.add_argument("--random", metavar="SHAPE")
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="of --random (default: 1 2 4)")
    arguments.add_argument("--quant", default="q4", help="of --random (default: q4)")
    arguments.add_argument("--cluster", nargs="+", required=True, metavar="FILE")
    arguments.add_argument(
        "--measured", metavar="FILE", help="what `mpsplit bench PACKAGE --json` said, instead of running it"
    )
    arguments.add_argument("--threads", type=int, default=1, help="a rank; probe with as many (default: 1)")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--jitter", type=float, default=0.0)
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    if bool(given.package) == bool(given.random):
        arguments.error("give either a PACKAGE or --random SHAPE")
    clusters = [load_cluster(Path(file)) for file in given.cluster]
    weather, table = Weather(given.jitter, given.jitter), []
    for ranks in given.ranks if given.random else [0]:
        if given.random:
            cluster = choose(clusters, ranks)  # before anything is run
            what = ["--random", given.random, "--ranks", ranks, "--quant", given.quant]
            speed = measured(what, given.threads, given.repeat)
            manifest = Manifest.load(package_path(given.random, ranks, Quantisation.named(given.quant, 32)))
        else:
            manifest = Manifest.load(Path(given.package))
            cluster = choose(clusters, manifest.plan.ranks)
            kept = given.measured and json.loads(Path(given.measured).read_text(encoding="utf-8"))
            speed = kept or measured([given.package], given.threads, given.repeat)
        table += rows(manifest, cluster, speed, weather)
    if given.json:
        print(json.dumps(table))
        return
    print("| ranks | | formula | simulated | measured | simulated / measured |\n|---|---|---|---|---|---|")
    for row in table:
        rates = " | ".join(f"{row[name]:,.1f}" for name in ("formula", "simulated", "measured"))
        print(f"| {row['ranks']} | {row['what']} | {rates} | {row['simulated'] / row['measured']:.2f} |")


if __name__ == "__main__":
    try:
        main()
    except MpsplitError as wrong:
        raise SystemExit(f"simulated.py: {wrong}") from None
