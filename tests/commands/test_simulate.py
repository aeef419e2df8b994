"""`mpsplit simulate`, from its arguments to its table, in this process."""

import json

import pytest

from mpsplit import cli
from mpsplit.export.model.named_shapes import SHAPES
from mpsplit.plan.cluster import described
from mpsplit.plan.cluster_json import save_cluster
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import even_plan


def simulated(capsys, *words, code: int = 0) -> str:
    assert cli.main(["simulate", *map(str, words)]) == code
    streams = capsys.readouterr()
    return streams.err if code else streams.out


def test_formula_and_simulation_side_by_side(capsys):
    printed = simulated(capsys, "llama-15m", "--tensor", 2, "--pipeline", 2, "--straggler", "3=2.0", "--jitter", 0.1)
    assert "llama-15m q4, 4 ranks in 2 stages" in printed and "waited for in sums" in printed
    report = json.loads(simulated(capsys, "llama-15m", "--tensor", 2, "--pipeline", 2, "--json"))
    assert report["simulation"]["token"] == pytest.approx(report["formula"]["token"], rel=1e-9)
    assert len(report["simulation"]["tokens"]) == 8 and len(report["simulation"]["waiting"]) == 4
    assert sum(link["bytes"] for link in report["simulation"]["sent"]) == report["simulation"]["wire_bytes"]


def test_the_machines_are_the_file_s_or_the_description_s_or_the_plan_s(capsys, tmp_path):
    facts, job = SHAPES["llama-15m"].facts, Job(new=8)
    plan, slow, fast = even_plan(facts, 2, 1), described([1 << 30] * 2), described([1 << 30] * 2, latency=1e-6)
    Placed(plan, fast, job).save(tmp_path / "plan.json")
    save_cluster(slow, tmp_path / "cluster.json")

    def token(*more) -> float:
        words = ("llama-15m", "--plan", tmp_path / "plan.json", "--json", *more)
        return json.loads(simulated(capsys, *words))["formula"]["token"]

    expected = [Placed(plan, cluster, job).price(facts).token for cluster in (fast, slow)]
    assert [token(), token("--cluster", tmp_path / "cluster.json")] == expected
    found = [token("--latency", "1us"), token("--latency", "100us")]  # 100us is not 1e-4 to the last digit
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--tensor 2 --straggler 2=2.0", "straggler 2 is none of the 2 ranks; give one from 0 to 1"),
        ("--tensor 2 --straggler 1=0", "straggler 1 is 0 times slower"),
        ("--tensor 2 --straggler 1", "--straggler '1' must be RANK=FACTOR"),
        ("--tensor 2 --tokens 0", "--tokens 0 is out of range"),
        ("--tensor 2 --context 100", "use --context 136 or more"),
        ("--tensor 2 --memory 64M", "rank 0 on machine-0 needs 0.0"),
        ("--tensor 2 --latency soon", "'soon' is not a time such as 100us or 1ms"),
        ("--tensor 0", "both must be at least 1"),
        ("", "which plan? give either --plan FILE, or --tensor T and --pipeline P"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, words, message):
    printed = simulated(capsys, "llama-15m", *words.split(), code=2)
    assert message in printed and printed.count("\n") == 1


def test_a_cluster_of_another_size_is_refused(capsys, tmp_path):
    save_cluster(described([1 << 30] * 3), tmp_path / "cluster.json")
    printed = simulated(capsys, "llama-15m", "--tensor", 2, "--cluster", tmp_path / "cluster.json", code=2)
    assert "the plan has 2 ranks, the cluster 3 devices" in printed
