"""What tests share: a time limit that no hang survives, small random models of every family, and
packages made of them.

The suite runs on one rank, and its mpi-marked tests again on 2 and 4. A test that every rank takes
part in uses `world`.
"""

from __future__ import annotations

import faulthandler
import fcntl
import io
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpsplit.comm import mpi_rank, mpi_size
from mpsplit.comm import world as mpi_world

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-vicuna"
# sizes that 1, 2 and 4 ranks divide; a vocabulary that they do not
SIZES = dict(
    vocab_size=131,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=8,
    max_position_embeddings=128,
)


def _families(changes: dict):
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    gqa, mha = (dict(num_key_value_heads=kv_heads) | SIZES | changes for kv_heads in (4, 8))
    return {
        "llama": lambda: LlamaConfig(**gqa, tie_word_embeddings=False),
        "llama-mha-tied": lambda: LlamaConfig(**mha, tie_word_embeddings=True),
        "llama-bias": lambda: LlamaConfig(**gqa, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
        "llama-rope3": lambda: LlamaConfig(**gqa, tie_word_embeddings=False, rope_parameters=ROPE3),
        **{
            f"llama-{kind}": lambda kind=kind: LlamaConfig(
                **gqa, tie_word_embeddings=False, rope_parameters=ROPES[kind]
            )
            for kind in ROPES
        },
        "mistral-window": lambda: MistralConfig(**gqa, tie_word_embeddings=False, sliding_window=11),
        "qwen2-tied": lambda: Qwen2Config(**gqa, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**gqa, head_dim=16, tie_word_embeddings=False),
    }


ROPE3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# the other scaling variants, which test_rope.py goes through
ROPES = {
    "linear": dict(rope_type="linear", rope_theta=10000.0, factor=3.0),
    "dynamic": dict(rope_type="dynamic", rope_theta=10000.0, factor=2.5),
    "yarn": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32),
    "yarn-slow": dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32,
        attention_factor=0.8, beta_fast=16, beta_slow=2,
    ),
}  # fmt: skip
FAMILIES = ("llama", "llama-mha-tied", "llama-bias", "llama-rope3", "mistral-window", "qwen2-tied", "qwen3")


def make_model(family: str, folder: Path, dtype: str = "float32", changes: dict | None = None, **save) -> Path:
    """A random model of the family, its sizes changed as asked, its biases and norms random too,
    saved as transformers saves it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_families(changes or {})[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape) * 0.2 + ("norm" in name))
            else:
                parameter.copy_(torch.randn(parameter.shape) * 0.08)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **save)
    return folder


def transformers_answer(folder: Path, prompt: tuple[int, ...], new: int):
    """The whole model's logits of every token of the prompt, and its greedy tokens after it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    asked = dict(attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0)
    with torch.inference_mode():
        return model(ids).logits[0].numpy(), tuple(model.generate(ids, **asked)[0, len(prompt) :].tolist())


def weight_path(folder: Path, role: str = "floats", number: int = 0) -> Path:
    """A weight file of a rank: its floats, its embedding, or one of the packed."""
    from mpsplit.package.stored.weight_files import WeightFiles

    files = WeightFiles.load(folder)
    return folder / (files.packed[number][1] if role == "packed" else getattr(files, role))


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Under mpirun rank 0 reports; the others keep their report to themselves unless something
    failed."""
    if mpi_rank():
        config.pluginmanager.getplugin("terminalreporter")._tw._file = io.StringIO()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if mpi_rank() and (report := config.pluginmanager.getplugin("terminalreporter")).stats.get("failed"):
        print(f"== rank {mpi_rank()}\n{report._tw._file.getvalue()}", file=sys.__stderr__, flush=True)


def pytest_testnodedown(node, error):
    """A process of pytest-xdist is gone, and its tests with it: that is more than a test that
    failed."""
    if error:
        node.config.lost = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "lost"):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also the cases that look for the same thing once more")


def pytest_collection_modifyitems(config, items):
    """Without what would show nothing new on so many ranks, and what only a thorough run
    looks for."""

    def wanted(item) -> bool:
        most, thorough = item.get_closest_marker("most"), item.get_closest_marker("thorough")
        once_more = thorough and mpi_size() >= (thorough.args or (1,))[0] and not config.option.thorough
        return not once_more and (not most or mpi_size() <= most.args[0])

    left_out = [item for item in items if not wanted(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if wanted(item)]


def thorough(*cases, ranks: int = 1) -> list:
    """Parameters that only `--thorough` tries, on so many ranks or more."""
    mark = pytest.mark.thorough(ranks)
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark) for case in cases]


@contextmanager
def turn(folder: Path, alone: bool):
    """While the block runs, no test that asked to be alone runs beside it; who waits to be alone
    keeps the door shut for the others."""
    with open(folder / "door", "w") as door, open(folder / "room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def taking_turns(request, tmp_path_factory):
    """Between the workers of pytest-xdist; ranks run the same test at the same time, and must."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        yield
        return
    with turn(tmp_path_factory.getbasetemp().parent, request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture(autouse=True)
def time_limit(request, taking_turns):
    """Ends this rank with the stacks of its threads when a test hangs; mpirun then ends
    the others."""
    marker = request.node.get_closest_marker("seconds")
    others = 2 if os.environ.get("PYTEST_XDIST_WORKER") else 1  # the cores are shared
    seconds = others * (marker.args[0] if marker else 120)
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def world():
    return mpi_world()


@pytest.fixture(scope="session")
def shared_folder(world):
    """A temporary directory that all ranks see."""
    folder = Path(world.exchange(tempfile.mkdtemp(prefix="mpsplit-test-"))[0])
    yield folder
    # ranks that are not in step meet nobody here
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    world.exchange(None)
    faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def model_of(world, shared_folder):
    """family -> its model directory, made once."""

    def make(family: str) -> Path:
        folder = shared_folder / "models" / family
        if world.rank == 0 and not folder.exists():
            make_model(family, folder)
        world.exchange(None)
        return folder

    return make


@pytest.fixture(scope="session")
def package_of(world, shared_folder, model_of):
    """(model directory or family, tensor, pipeline) -> its package; every rank its part, or one
    rank all of them."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.export.model.model_source import read_config
    from mpsplit.export.partition import partition
    from mpsplit.plan.model_facts import ModelFacts
    from mpsplit.plan.shards import even_plan

    def make(model: str | Path, tensor: int, pipeline: int) -> Path:
        folder = model if isinstance(model, Path) else model_of(model)
        out = shared_folder / f"{folder.name}-{tensor}x{pipeline}"
        if not (out / "manifest.json").exists():
            plan = even_plan(ModelFacts.from_config(read_config(folder)), tensor, pipeline)
            partition(folder, plan, out, world)
            convert(out, world, find_pnnx())
        world.exchange(None)
        return out

    return make


def splits(ranks: int) -> list[tuple[int, int]]:
    """(tensor, pipeline) in {1, 2, 4} x {1, 2} that make exactly this many ranks."""
    return [(t, p) for t in (1, 2, 4) for p in (1, 2) if t * p == ranks]
