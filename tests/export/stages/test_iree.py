"""Stages through IREE: code that each rank compiles of its own, weights in an archive, against
transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.export.stages.convert_stages import convert_stages
from mpsplit.export.stages.partition_stages import partition_stages
from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.package.stages.built import IREE, Built
from mpsplit.package.stages.stage_files import COMPILED
from mpsplit.plan.stages.placing import even_ends
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline
from mpsplit.runtime.pipeline.trial import Trials
from tests.cases import thorough
from tests.missing import needs
from tests.networks import make_network
from tests.running import CLEAN, mpsplit, refused
from tests.staged_runs import beside_eager

pytestmark = [needs("iree"), pytest.mark.seconds(300)]
ROOT = Path(__file__).parents[3]
STAGES = {"vit": "vit.layers.0,vit.layers.1,vit.layernorm", "bert": "2", "gpt2": "3"}
LENGTHS = (1, 2, 19, 96)
CLOSE = 1e-4  # of the largest number; IREE's tanh, which GPT-2 has, is an approximation


def make_package(name: str, folder: Path, comm) -> tuple[Path, Path, int]:
    """And how many stages were compiled."""
    from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler

    model, package = folder / name, folder / f"{name}-iree-{comm.size}"
    if comm.rank == 0 and not model.is_dir():
        make_network(name, model)
    comm.exchange(None)
    cut = cut_model(model, STAGES[name])
    partition_stages(cut, even_ends(cut.costs, comm.size), package, comm)
    compiler = IreeCompiler()
    with Trials() as trials:
        made = convert_stages(package, comm, compiler, trials)
    assert made.read[comm.rank] == made.manifest.ranks[comm.rank].weight_bytes
    return model, package, len(compiler.programs)


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("name", ["vit", "bert", *thorough("gpt2", ranks=2)])
def test_what_comes_out_is_what_transformers_says(world, shared_folder, name):
    model, package, compiled = make_package(name, shared_folder, world)
    if name == "vit" and world.size == 1:
        assert compiled == 3  # of four: its two layers are equal
    for found, wanted in beside_eager(package, model, world, LENGTHS):
        for output, array in found.items():
            expected = wanted[output]
            assert array.shape == expected.shape and (array.argmax(-1) == expected.argmax(-1)).all()
            assert np.abs(array - expected).max() <= CLOSE * max(1.0, np.abs(expected).max())


ALONE = """
import sys
from pathlib import Path
import numpy as np
from mpsplit.comm import Alone
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline
run = load_pipeline(Path(sys.argv[1]), Alone())
[found] = run.lead([{"pixel_values": np.zeros((1, 3, 32, 32), np.float32)}])
assert found["logits"].shape == (1, 3)
assert not {"torch", "transformers", "safetensors"} & set(sys.modules)
assert not [name for name in sys.modules if name.startswith("iree.compiler")]
"""


def test_a_package_from_the_command_line_to_its_end(tmp_path, monkeypatch):
    """Weights are in no text, a worker needs the runtime alone, and ncnn leaves no trace of it."""
    model, package = make_network("vit", tmp_path / "vit"), tmp_path / "package"
    mpsplit("partition", model, "--stages", 2, "--ranks", 1, "--serial", "--out", package)
    convert = ("convert", package, "--compiler", "iree", "--serial")
    assert "--quant is for ncnn" in refused(*convert, "--quant", "q8")
    assert "each stage was run beside its program" in mpsplit(*convert)
    rank = package / "rank-0"
    names = {path.name for path in rank.iterdir() if path.name.endswith(COMPILED)}
    assert names == {f"stage-0{n}.{suffix}" for n in (0, 1) for suffix in ("mlir", "vmfb", "irpa")}
    assert sum(path.stat().st_size for path in rank.glob("*.mlir")) < 50_000
    assert "// array_0: vit.embeddings." in (rank / "stage-00.mlir").read_text()
    said = mpsplit("inspect", package, "--check")
    assert "stage-01.vmfb" in said and "by iree, for " in said
    assert json.loads(mpsplit("verify", package, model, "--json"))["same"]
    subprocess.run(
        [sys.executable, "-c", ALONE, package], check=True, env=CLEAN | {"PYTHONPATH": str(ROOT)}, timeout=60
    )
    monkeypatch.setitem(sys.modules, "iree", None)
    for module in ("pipeline.nets.iree_net", "iree.iree_program"):
        monkeypatch.delitem(sys.modules, f"mpsplit.runtime.{module}", raising=False)
    assert "iree-base-compiler is not installed; pip install 'mpsplit[iree]'" in refused(*convert)
    with pytest.raises(RunError, match=r"its runtime is not here \(.*\); pip install 'mpsplit\[iree\]'"):
        load_pipeline(package, Alone())
    mpsplit("convert", package, "--serial")
    names = {path.name for path in rank.iterdir() if path.name.endswith(COMPILED)}
    assert names == {f"stage-0{n}.{suffix}" for n in (0, 1) for suffix in ("param", "bin")}


def test_code_for_another_processor_is_refused():
    """Which it names, instead of an illegal instruction."""
    here = Built.here(IREE, ["sse2", "x87", "neon"])
    here.check("stage a")
    assert here.features and Built.from_json(here.to_json()) == here
    with pytest.raises(RunError, match="stage a was compiled for a processor with avx9000, which this one lacks"):
        Built(IREE, here.machine, (*here.features, "avx9000")).check("stage a")
    with pytest.raises(RunError, match="was compiled for vax, this machine is"):
        Built(IREE, "vax").check("stage a")


def test_shards_are_refused(tmp_path):
    model = make_network("vit", tmp_path / "vit")
    mpsplit(
        "partition", model, "--stages", 2, "--shards", "fc1=rows:2", "--ranks", 2, "--serial", "--out", tmp_path / "p"
    )
    assert "has --shards, which need ncnn" in refused("convert", tmp_path / "p", "--compiler", "iree", "--serial")
