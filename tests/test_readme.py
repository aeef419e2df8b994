"""The README's commands, as they stand, with the shipped model for MODEL."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpsplit.mpirun import OPEN_MPI
from tests.cases import thorough
from tests.models import EXAMPLE
from tests.running import CLEAN

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs one line of the README in an empty directory, as a shell with the environment activated
    would."""
    place = tmp_path_factory.mktemp("readme")
    environment = {**OPEN_MPI, **CLEAN, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(line):
        done = subprocess.run(
            line.replace("MODEL", str(EXAMPLE)), shell=True, capture_output=True, text=True, cwd=place, env=environment, timeout=280, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    return run


@pytest.mark.seconds(600)
@pytest.mark.parametrize("block", [*BLOCKS[:4], *thorough(*BLOCKS[4:])])
def test_the_commands_work(run, block):
    assert len(BLOCKS) == 5
    lines = [line for line in block.strip().splitlines() if "activate" not in line]
    said = {line.partition("mpsplit ")[2].split(" ")[0]: run(line) for line in lines}
    if "verify" in said:
        assert said["run"].strip() == "7+6=13, 5+8+1=14. The answer is 143."
        assert said["verify"].startswith("the same: f32 on native: logits at most ")
    elif "prefix" in said:
        assert said["run"].strip() == "The capital of France is Paris." and "capitals:" in said["prefix"]
    elif "probe" in said:
        assert "memory reads" in said["probe"] and "tok/s" in said["plan"]
    elif "bench" in said:
        assert all(words in said["bench"] for words in ("llama-15m q4, 2 ranks x 1 thread", "prefill 512", "wait"))
    else:
        result = json.loads(said["run"])
        assert result["text"].strip() == "ROCKET reversed is TEKCOR." and result["finish_reason"] == "eos"
        stats = result["stats"]
        assert len(result["token_ids"]) == stats["new_tokens"] and len(stats["peak_rss_bytes"]) == 2
        assert stats["prefill_tok_s"] > 0 and stats["decode_tok_s"] > 0 and stats["bytes_between_ranks"] > 0
        assert stats["time_to_first_token_s"] > 0 and stats["prompt_tokens"] == 50
        assert "collectives  11 all_reduce" in said["inspect"]


def test_every_command_the_readme_names_exists():
    from mpsplit.cli import build_parser

    named = set(re.findall(r"mpsplit (\w+)", " ".join(BLOCKS)))
    for name in named:
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([name, "--help"])
        assert ended.value.code == 0
    scripts = set(re.findall(r"\./launch/(\w+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert scripts >= {"demo", "test", "setup"} and all(os.access(ROOT / "launch" / name, os.X_OK) for name in scripts)
