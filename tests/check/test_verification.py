"""The gate: sound packages pass at 1, 2 and 4 ranks, damaged ones do not, and the damaged layer is
named."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from mpsplit.check.gate import MOST_KL, Limits, failures, first_parting
from mpsplit.check.verification import Trial, stored_kind, verify
from mpsplit.comm import Alone
from mpsplit.package.agreement import Agreement, PartAgreement
from mpsplit.package.inside.anatomy import anatomy
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.float_weights import ALIGNMENT, read_weights, write_weights
from mpsplit.package.stored.quantisation import LAYER, QLinear
from mpsplit.package.stored.weight_files import WeightFiles, inside
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.runtime.load import load_loop
from tests.cases import splits, thorough
from tests.check.damages import rehash
from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, mpsplit, refused

needs_the_engine = needs("the engine")
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")  # of a layer, along the data flow
WHERE = [None, *(n for n in range(3) for _ in "am"), None]


def run(world, package, folder, layers=True):
    trial = Trial(package, folder, layers=layers)
    trial = replace(trial, kind=stored_kind(Manifest.load(package), trial, world))
    found = verify(load_loop(package, world), world, trial)
    return of_rank_0(world, found and found.to_json(), Agreement.from_json)


@pytest.mark.mpi
@needs_the_engine
@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ("qwen2-tied", *thorough("llama-bias")))
def test_a_sound_package_is_the_model_in_every_part(world, package_of, model_of, family, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    found = run(world, package_of(family, *cuts[index]), model_of(family))
    assert not failures(found, Limits.of(found).with_wishes(tolerance=1e-4))
    assert found.greedy == found.top1 == 1 and found.positions == 1 + 7 + 40 + 3 * 32
    assert [part.layer for part in found.parts] == WHERE
    assert [part.part for part in found.parts] == ["embedding", *["attention", "mlp"] * 3, "head"]
    assert all(part.own < 1e-5 and part.max_abs < 1e-4 and part.cosine > 0.9999 for part in found.parts)


@pytest.mark.mpi
@pytest.mark.most(2)
@needs_the_engine
@pytest.mark.parametrize("layer, matrix", [(1, "down"), (2, "q")])
def test_the_damaged_layer_is_named(world, package_of, model_of, shared_folder, layer, matrix):
    package = package_of("llama", *splits(world.size)[-1])
    copy = shared_folder / f"damaged-{layer}-{matrix}"
    if world.rank == 0:
        shutil.copytree(package, copy)
        damage(copy, rank_with(copy, layer), layer, matrix)
    world.exchange(None)
    found = run(world, copy, model_of("llama"))
    part = first_parting(found.parts)
    assert part.where == f"layer {layer} ({'mlp' if matrix == 'down' else 'attention'})"
    assert all(other.own < 1e-5 for other in found.parts if other is not part), found.parts
    said = failures(found, Limits.of(found))
    assert any(text.startswith(f"first parts at {part.where}, which by itself is ") for text in said)


def rank_with(package, layer):
    return next(shard.rank for shard in Manifest.load(package).plan.shards if layer in shard.layers)


def damage(package, rank, layer, matrix):
    """Bytes of one matrix of one rank flip; the manifest knows nothing of it."""
    manifest, folder = Manifest.load(package), rank_folder(package, rank)
    graph = Param.load(folder / GRAPH)
    parts = anatomy(graph, manifest.plan.shards[rank].layers.start)
    found = [part for part in parts.of(f"layer {layer}") if part.type in (LAYER, "Gemm")]
    name = dict(zip(MATRICES, found, strict=True))[matrix].name
    files = WeightFiles.load(folder)
    if files.packed:
        data = matrix_of(folder, QLinear.of(graph_layer(graph, name)))
        data[: len(data) // 2 : 3] ^= 0x35
        data.base.flush()
    else:
        weights = {
            key: [np.array(array) for array in arrays]
            for key, arrays in read_weights(graph, folder / files.floats).items()
        }
        weights[name][0].reshape(-1)[:100].view(np.uint32)[:] ^= 0x80000000
        write_weights(graph, weights, folder / files.floats)
    rehash(package)


def matrix_of(folder, q):
    """The bytes of a packed matrix, to be written to."""
    files = WeightFiles.load(folder)
    number = inside(files.spans(folder), q.offset, q.bytes)
    begin, name = files.packed[number]
    start = (q.offset - begin) * ALIGNMENT
    return np.memmap(folder / name, np.uint8, "r+")[start : start + q.bytes]


def graph_layer(graph, name):
    return next(layer for layer in graph.layers if layer.name == name)


@needs_the_engine
@pytest.mark.parametrize("kind", ("bf16", "q8", "q6", "q4", "i4", "q3", "q2"))
def test_each_kind_is_what_plain_rounding_foretells(stored_as, kind):
    found = run(Alone(), stored_as(kind, 1), EXAMPLE)
    assert found.kind == kind and not failures(found, Limits.of(found))
    assert 0.7 < found.kl / found.rounding.kl < 1.2 * MOST_KL[kind]
    halves = [part for part in found.parts if part.layer is not None]
    assert len(halves) == 10 and all(0.9 < part.own / part.rounding < 1.1 for part in halves)


@needs_the_engine
def test_a_damaged_layer_of_4_bits_is_named_and_one_that_is_not_finite_too(stored_as, tmp_path):
    package = shutil.copytree(stored_as("q4", 1), tmp_path / "q4")
    damage(package, 0, 3, "up")
    found = run(Alone(), package, EXAMPLE)
    assert first_parting(found.parts).where == "layer 3 (mlp)"
    graph = Param.load(package / "rank-0" / GRAPH)
    data = matrix_of(package / "rank-0", QLinear.of([p for p in anatomy(graph, 0).of("layer 1") if p.type == LAYER][0]))
    data[:] = 0x7F
    data.base.flush()
    rehash(package)
    found = run(Alone(), package, EXAMPLE)
    assert first_parting(found.parts).where == "layer 1 (attention)"
    assert Agreement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))).kind == "q4"


def test_what_is_not_finite_holds_no_limit_and_survives_json():
    inf, part = np.inf, PartAgreement(2, "mlp", np.inf, np.inf, np.inf)
    found = Agreement("native", "q4", "0", 9, inf, inf, inf, 0.0, 0.0, inf, (part,))
    assert Agreement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    said = failures(found, Limits.of(found))
    assert len(said) == 4 and "KL inf" in said[0] and "first parts at layer 2 (mlp)" in said[-1]
    close = Agreement("native", "f32", "0", 9, 2e-3, 0.0, 0.0, 1.0, 1.0, 1.0)
    assert failures(close, Limits.of(close)) == [
        "logits at most 2.00e-03 apart, --tolerance allows 0.001 (2 times as much)"
    ]


@pytest.fixture
def package(package_of, tmp_path):
    """Nobody has verified it yet."""
    copied = shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path / "package")
    replace(Manifest.load(copied), verified=None).save(copied)
    return copied


@needs_the_engine
def test_the_manifest_keeps_what_was_found_and_is_otherwise_the_same(package):
    before = (package / "manifest.json").read_bytes()
    told = json.loads(mpsplit("verify", package, EXAMPLE, "--layers", "--json"))
    assert told["same"] and told["failed"] == [] and told["first_parts_at"] is None and len(told["parts"]) == 12
    after = json.loads((package / "manifest.json").read_bytes())
    assert after.pop("verified") == {
        name: told[name] for name in told if name not in ("same", "failed", "limits", "first_parts_at", "layers")
    }
    assert json.dumps(after, indent=1, ensure_ascii=False).encode() + b"\n" == before
    assert "verified: f32 on native: logits at most " in mpsplit("inspect", package)
    assert json.loads(mpsplit("inspect", package, "--json"))["verified"]["parts"] == told["parts"]
    replace(Manifest.load(package), verified=None).save(package)
    assert (package / "manifest.json").read_bytes() == before


@needs_the_engine
def test_thresholds_and_prompts_of_your_own(package_of, tmp_path):
    package = shutil.copytree(package_of(EXAMPLE, 1, 1), tmp_path / "package")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is 57+86?\n\nWhich day comes after Monday?\n", encoding="utf-8")
    damage(package, 0, 2, "gate")
    said = mpsplit("verify", package, EXAMPLE, "--prompts", prompts, "--layers", code=1).splitlines()
    lines = [line for line in said if line.startswith("DIFFERENT: ")]
    assert len(lines) == 1 and "--tolerance allows 0.001" in lines[0] and "first parts at layer 2 (mlp)" in lines[0]
    loose = ("--tolerance", 100, "--max-kl", 100, "--max-perplexity-ratio", 100, "--min-perplexity-ratio", 0)
    said = mpsplit("verify", package, EXAMPLE, "--prompts", prompts, *loose, "--no-layers", "--min-top1", 1.01, code=1)
    assert "; top-1 " in said and "--min-top1 asks for 101.0%" in said and "KL " not in said.splitlines()[0]
    assert said.splitlines()[-1].startswith("not layer by layer: that takes about ")


def test_what_cannot_be_verified_is_refused_in_one_line(package, package_of, model_of, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    assert "has 2 lines and no text" in refused("verify", package, EXAMPLE, "--prompts", empty)
    assert "cannot be read" in refused("verify", package, EXAMPLE, "--prompts", tmp_path / "none")
    assert "--tolerance nan is out of range" in refused("verify", package, EXAMPLE, "--tolerance", "nan")
    assert "is not the model of this package" in refused("convert", package, "--verify", model_of("llama"))
    one = package_of("llama", 1, 1)
    text = tmp_path / "text.txt"
    text.write_text("Hello\n", encoding="utf-8")
    assert "--prompts needs a tokenizer" in refused("verify", one, model_of("llama"), "--prompts", text)
    assert "--layers needs the native engine" in refused(
        "verify", one, model_of("llama"), "--layers", "--engine", "stock"
    )


@needs_the_engine
@pytest.mark.parametrize("ranks", (2, *thorough(1)))
def test_convert_verifies_what_it_made_here_or_on_ranks_of_its_own(package_of, model_of, tmp_path, ranks):
    package = shutil.copytree(package_of("llama", ranks, 1), tmp_path / "package")
    said = mpsplit("convert", package, "--serial", "--verify", model_of("llama"))
    assert "the same: f32 on native" in said and Manifest.load(package).verified.top1 == 1


@needs_the_engine
@needs("a user who may not write everything")
def test_a_package_that_cannot_be_written_is_verified_all_the_same(package_of, model_of, tmp_path):
    package = shutil.copytree(package_of("llama", 1, 1), tmp_path / "package")
    package.chmod(0o500)
    command = [*MPSPLIT, "verify", str(package), str(model_of("llama"))]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, timeout=60, check=True)
    assert "the same" in done.stdout and "is told, not kept" in done.stderr
