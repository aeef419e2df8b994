"""`mpsplit plan` from the command line: what it says, writes and refuses."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mpsplit.cli import main
from mpsplit.plan.cluster import described
from mpsplit.plan.cluster_json import save_cluster
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.shards import Plan
from tests.models import EXAMPLE

THREE = ["--ranks", "3", "--memory", "4G,4G,8G", "--context", "256"]


def plan(*words: str) -> int:
    return main(["plan", str(EXAMPLE), *words])


def streams(capsys) -> tuple[str, str]:
    out, err = capsys.readouterr()
    return out, err


def test_the_best_plan_without_a_probe_says_that_it_is_a_guess(capsys):
    assert plan(*THREE) == 0
    out, _ = streams(capsys)
    assert "nobody has measured these machines" in out and "tok/s" in out and "the best for seconds a token" in out
    assert "the checkpoint has 0.00223 GB of F16" in out


def test_slow_links_make_more_machines_slower_and_the_first_line_says_so(capsys):
    assert plan("--tensor", "2", "--latency", "5ms") == 0
    first = streams(capsys)[0].splitlines()[0]
    assert "slower" in first and "1 machine" in first


def test_weak_machines_are_left_out_and_named(capsys):
    assert plan("--ranks", "2", "--latency", "5ms", "--memory", "4G") == 0
    out, _ = streams(capsys)
    assert "on 1 rank" in out and "without machine-1" in out


def test_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, svg, hosts = tmp_path / "plan.json", tmp_path / "plan.svg", Path("hosts")
    assert plan(*THREE, "--tensor", "3", "--out", str(out), "--draw", str(svg), "--hosts", str(hosts)) == 0
    placed = Placed.load(out)
    assert placed.plan == Plan.load(out) and placed.plan.ranks == placed.cluster.size == 3 and placed.job.context == 256
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    err = streams(capsys)[1]
    assert "mpsplit partition" in err and f"mpirun --hostfile {hosts}/hostfile" in err
    assert "machine-2 slots=1" in (hosts / "hostfile").read_text()
    assert plan("--cluster", str(save(tmp_path, 3)), "--plan", str(out), "--json") == 0
    assert json.loads(streams(capsys)[0])["shards"] == placed.plan.to_json()["shards"]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert plan(*THREE, "--dry-run", "--out", str(tmp_path / "plan.json")) == 0
    assert not list(tmp_path.iterdir()) and "tok/s" in streams(capsys)[0]


def test_config_alone_is_enough(tmp_path, capsys):
    (tmp_path / "config.json").write_text((EXAMPLE / "config.json").read_text())
    assert main(["plan", str(tmp_path), "--ranks", "2"]) == 0
    assert "checkpoint" not in streams(capsys)[0]
    assert main(["plan", "llama-70b", "--ranks", "2", "--memory", "64G"]) == 0
    assert "llama-70b, 80 layers" in streams(capsys)[0]


def test_comparisons_have_one_machine_alone(capsys):
    assert plan(*THREE, "--compare", "--json") == 0
    rows = json.loads(streams(capsys)[0])
    assert {1, 3} <= {row["ranks"] for row in rows} and rows[0]["name"] == "best"
    assert rows[0]["token_s"] == min(row["token_s"] for row in rows if row["token_s"])
    assert plan(*THREE, "--compare") == 0
    assert "alone" in streams(capsys)[0]


def save(folder, ranks, **changes):
    path = folder / "cluster.json"
    save_cluster(described([4 << 30] * ranks), path)
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "on which machines? give --cluster FILE"),
        (["--cluster", "none.json"], "there is no none.json; make it with `mpirun ... mpsplit probe"),
        (["--ranks", "2", "--memory", "4G,4G,8G"], "--memory names 3 machines, 2 ranks were asked for"),
        (["--ranks", "2", "--memory", "4X"], "'4X' is not an amount of memory"),
        (["--ranks", "2", "--latency", "soon"], "'soon' is not a time"),
        (["--ranks", "2", "--context", "99999"], "--context 99999 is out of range"),
        (["--ranks", "2", "--prompt", "0"], "--prompt 0 is out of range"),
        (["--ranks", "2", "--pin", "layers 0-4=0,1", "--tensor", "2"], "each say what the plan is"),
        (["--ranks", "2", "--pin", "layers 0-3=0"], "leaves layers 4-4 out"),
        (["--ranks", "3", "--tensor", "2", "--pipeline", "2"], "makes 4 ranks, 3 were asked for"),
        (["--ranks", "2", "--memory", "60M"], "needs"),
        (["--ranks", "2", "--plan", "none.json"], "there is no plan at none.json"),
        (["--ranks", "2", "--goal", "speed"], "invalid choice"),
        (["--ranks", "0"], "--ranks 0 is out of range; it must be at least 1"),
        (["--ranks", "1000"], "among 1000 machines nobody searches in a useful time, 256 are the most; say how"),
    ],
)
def test_what_cannot_be_is_one_line(words, message, capsys):
    assert plan(*words) == 2
    err = streams(capsys)[1]
    assert message in err and err.count("\n") == 1


def test_many_machines_are_not_searched_where_the_plan_is_given(capsys):
    assert plan("--ranks", "300", "--tensor", "1", "--pipeline", "5", "--dry-run") == 2
    assert "makes 5 ranks, 300 were asked for" in streams(capsys)[1]
    assert plan("--ranks", "300", "--pin", "layers 0-4=0", "--dry-run") == 0


def test_a_cluster_that_contradicts_itself(tmp_path, capsys):
    assert plan("--cluster", str(save(tmp_path, 2, messages=[1]))) == 2
    assert "messages are [1]" in streams(capsys)[1]
    assert plan("--cluster", str(save(tmp_path, 2)), "--ranks", "3") == 2
    assert "has 2 devices, 3 ranks were asked for" in streams(capsys)[1]
    assert plan("--cluster", str(save(tmp_path, 2)), "--memory", "4G") == 2
    assert "has measured what --memory would say" in streams(capsys)[1]


@pytest.mark.parametrize("option", ["--out", "--draw"])
def test_a_file_that_cannot_be_written(capsys, option):
    assert plan(*THREE, option, "/no/where/file") == 2
    _, err = streams(capsys)
    assert f"{option} /no/where/file cannot be written (No such file or directory); name another file" in err
