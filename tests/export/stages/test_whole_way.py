"""Networks in stages, all the way: captured, cut, converted and run, against eager torch."""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler
from mpsplit.export.stages.convert_stages import convert_stages
from mpsplit.export.stages.model_builder import original
from mpsplit.export.stages.partition_stages import partition_stages
from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.package.manifest import rank_folder
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.stages.placing import even_ends
from mpsplit.runtime.pipeline.trial import Trials
from tests.cases import thorough
from tests.networks import NETWORKS, make_network
from tests.running import CLEAN
from tests.staged_runs import beside_eager, eager, inputs_of

ROOT = Path(__file__).parents[3]
STAGES = {"vit": "6", "bert": "5", "resnet": "4", "gpt2": "5", "roberta": "4", "t5": "5", "whisper": "4", "clip": "4"}
SOME = ("t5",)  # several values between stages; test_tiny_vit.py has one
RECIPES = {"f32": Recipe(), "q8": Recipe.parse("q8", 32)}
CLOSE = {"f32": 1e-4, "q8": 5e-2}
LENGTHS = (4, 19, 96)


cut_once = functools.cache(cut_model)


def make_package(name: str, models: Path, folder: Path, comm, kind: str = "f32"):
    model, package = models / name, folder / f"{name}-{kind}-{comm.size}"
    if comm.rank == 0 and not model.is_dir():
        make_network(name, model)
    comm.exchange(None)
    cut = cut_once(model, STAGES[name])
    partition_stages(cut, even_ends(cut.costs, comm.size), package, comm)
    with Trials() as trials:
        made = convert_stages(package, comm, NcnnCompiler(find_pnnx(), RECIPES[kind]), trials)
    return model, package, made


@pytest.mark.mpi
@pytest.mark.seconds(200)
@pytest.mark.parametrize("kind", [*thorough("f32", ranks=2), "q8"])
@pytest.mark.parametrize("name", [*SOME, *thorough(*(name for name in NETWORKS if name not in SOME), ranks=4)])
def test_what_comes_out_is_what_eager_torch_says(world, shared_folder, name, kind):
    model, package, made = make_package(name, shared_folder, shared_folder, world, kind)
    assert made.read[world.rank] == made.manifest.ranks[world.rank].weight_bytes
    for found, wanted in beside_eager(package, model, world, LENGTHS):
        assert set(found) == set(wanted)
        for output, array in found.items():
            assert array.shape == wanted[output].shape
            apart = np.abs(array - wanted[output]).max() / max(1.0, np.abs(wanted[output]).max())
            assert apart <= CLOSE[kind], f"{output} is {apart} apart"


ALONE = """
import sys
from pathlib import Path
import numpy as np
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_files import StageFiles, stem_of
from mpsplit.runtime.pipeline.nets.load_net import load_net
folder, number, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
pipeline = Pipeline.load(folder)
names = {path.name for path in folder.iterdir()}
net = load_net(pipeline, pipeline.stages[number], folder, StageFiles.of(names, stem_of(number)), 1)
np.savez(folder / "out.npz", **net.run(dict(np.load(folder / "in.npz")), length))
assert not {"torch", "transformers", "safetensors"} & set(sys.modules)
"""


@pytest.mark.seconds(200)
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_each_stage_runs_alone_in_a_process_that_has_only_its_files(shared_folder, tmp_path, name):
    """And all of them one after the other are the whole."""
    model, package, _ = make_package(name, shared_folder, tmp_path, Alone())
    pipeline, manifest = Pipeline.load(package), StageManifest.load(package)
    [*_, given] = inputs_of(pipeline, LENGTHS)
    values, length = dict(given), LENGTHS[-1]
    for number, stage in enumerate(pipeline.stages):
        folder = tmp_path / f"alone-{number}"
        folder.mkdir()
        pipeline.save(folder)
        own = [file for file in manifest.ranks[0].files if Path(file.path).name.startswith(f"stage-{number:02}.")]
        assert own
        for file in own:
            (folder / Path(file.path).name).write_bytes((package / file.path).read_bytes())
        np.savez(folder / "in.npz", **{value: values[value] for value in stage.inputs})
        command = [sys.executable, "-c", ALONE, str(folder), str(number), str(length)]
        subprocess.run(command, check=True, cwd=folder, env=CLEAN | {"PYTHONPATH": str(ROOT)}, timeout=60)
        values |= dict(np.load(folder / "out.npz"))
    wanted = eager(original(model), given)
    for output, value in pipeline.outputs.items():
        np.testing.assert_allclose(values[value], wanted[output], rtol=1e-4, atol=1e-4)


def test_partition_holds_no_weights(tmp_path):
    model = make_network("vit", tmp_path / "vit")
    cut = cut_model(model, "6")
    partition_stages(cut, even_ends(cut.costs, 2), tmp_path / "out", Alone())
    folders = [rank_folder(tmp_path / "out", rank) for rank in (0, 1)]
    for script in (path for folder in folders for path in folder.glob("*.pt")):
        assert script.stat().st_size < 20_000
