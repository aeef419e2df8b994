"""A package of a GGUF file's own blocks has the weights that gguf-py finds in it, bit for bit."""

import hashlib
import re

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from mpsplit.cli import main
from mpsplit.comm import Alone
from mpsplit.errors import PlanError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.gguf.gguf_blocks import FORMS
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_numbers import integers
from mpsplit.export.model.model_source import find_model
from mpsplit.export.weights.repacked import Repacked
from mpsplit.options.model_argument import own_kinds, with_own_blocks
from mpsplit.package.checked.layer_shapes import linears_of as linears_in
from mpsplit.package.manifest import GRAPH, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.quantisation import BFLOAT, LAYER, Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import linears_of, part_of
from mpsplit.plan.price.sizes import Job, attention_bytes, head_bytes, mlp_bytes
from mpsplit.plan.shards import Range
from tests.cases import thorough
from tests.ggufs import random_blocks, write_gguf
from tests.models import make_model
from tests.packages import partition_evenly

# every cut along columns of 1, 2 and 3 ranks is a multiple of 32
SHAPE = dict(hidden_size=192, intermediate_size=192, num_attention_heads=6, num_key_value_heads=3, num_hidden_layers=2)
# of 2 ranks, of 256: each type of such blocks is cut both ways
IN_PARTS = dict(hidden_size=256, intermediate_size=512, num_attention_heads=16, num_key_value_heads=2, head_dim=32,
                num_hidden_layers=3)  # fmt: skip
OWN = Recipe.parse(None, 32)
IN_256 = [name for name, how in FORMS.items() if how.parts]
IN_32 = [name for name in FORMS if name not in IN_256]
BLOCKED = [name for name, how in FORMS.items() if how.bits not in (0, BFLOAT)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_folder, "cache", lambda: tmp_path / "cache")


def mixed(name: str) -> str:
    """Other types for parts of one product, and of one layer than of the next."""
    words = {"q_proj": "Q4_0", "k_proj": "Q8_0", "v_proj": "BF16", "gate_proj": "F16", "up_proj": "Q5_0",
             "o_proj": "F32", "embed_tokens": "Q4_0", "lm_head": "Q8_0"}  # fmt: skip
    return next((kind for word, kind in words.items() if word in name), "Q8_0" if ".0." in name else "Q4_0")


def package_of(path, out, ranks, recipe=OWN, pipeline=1):
    manifest = partition_evenly(find_model(str(path)), out, ranks, pipeline)
    return convert(out, Alone(), find_pnnx(), recipe).manifest or manifest


def of_gguf_py(path) -> dict[str, np.ndarray]:
    """Weights by transformers' names, their rows in transformers' order."""
    checkpoint = GgufCheckpoint(path)
    names = {tensor.name: weight for weight, tensor in checkpoint.tensors.items()}
    found = {}
    for tensor in GGUFReader(path).tensors:
        rows = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).astype(np.float32)
        if tensor.name.split(".")[2:3] in (["attn_q"], ["attn_k"]):
            rows = rows.reshape(-1, 16, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        found[names[tensor.name]] = rows
    checkpoint.close()
    return found


def sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, np.float32)).hexdigest()


def check_every_weight(path, package, manifest) -> None:
    whole, facts, seen = of_gguf_py(path), manifest.facts, set()
    if facts.tied:
        whole[facts.family.head] = whole[facts.family.embedding]
    for shard in manifest.plan.shards:
        source = Repacked(package, manifest, [shard.rank])
        for name, rows in whole.items():
            if source.slice_of(name) is None:
                continue
            part = part_of(name, shard, facts)
            cut = (taken or Range(0, size) for taken, size in zip(map(part.along, (0, 1)), rows.shape, strict=False))
            expected = rows[tuple(slice(taken.start, taken.stop) for taken in cut)]
            assert sha256(source.floats(name, Range(0, len(expected)))) == sha256(expected), (shard.rank, name)
            seen.add(name)
        source.close()
    assert seen == set(whole)


@pytest.mark.parametrize(
    "kind, ranks", [*((name, 3) for name in IN_32), *thorough(("Q8_0", 1), ("Q4_1", 1), ("Q4_1", 2))]
)
def test_every_weight_is_what_gguf_py_dequantises(tmp_path, kind, ranks):
    path = write_gguf(make_model("llama", tmp_path / "model", changes=SHAPE), tmp_path / "small.gguf", kind, drawn=True)
    manifest = package_of(path, tmp_path / "package", ranks)
    check_every_weight(path, tmp_path / "package", manifest)
    assert f"15 of {kind}" in manifest.tools["recipe"]


@pytest.mark.parametrize(
    "family, ranks, pipeline", [("llama-mha-tied", 2, 1), *thorough(("llama", 3, 1), ("llama", 1, 2))]
)
def test_types_may_differ_from_weight_to_weight(tmp_path, family, ranks, pipeline):
    changes = SHAPE | ({"num_key_value_heads": 6} if "mha" in family else {})
    path = write_gguf(make_model(family, tmp_path / "model", changes=changes), tmp_path / "small.gguf", mixed)
    manifest = package_of(path, tmp_path / "package", ranks, pipeline=pipeline)
    check_every_weight(path, tmp_path / "package", manifest)
    assert manifest.dtype == (HEAD_ROWS if "tied" in family else "Q8-32")


def check_sizes(path, package, manifest) -> None:
    """What a plan counts with is what is stored."""
    facts, layers = manifest.facts, manifest.facts.layers
    job = with_own_blocks(Job(), facts, own_kinds(find_model(str(path))))
    for shard in manifest.plan.shards:
        graph = Param.load(rank_folder(package, shard.rank) / GRAPH)
        stored = sum(linear.bytes for layer in graph.layers if layer.type == LAYER for linear in linears_in(layer))
        attention = attention_bytes(facts, len(shard.heads), len(shard.kv_heads), job)
        counted = layers * (attention + mlp_bytes(facts, len(shard.mlp), job)) + head_bytes(facts, len(shard.head), job)
        assert abs(stored - counted) <= 8 * layers, "of rounded averages"


def in_parts(name: str) -> str:
    """Another type for each of the six linears that are cut along columns, and for the others."""
    places = {"o_proj": 0, "down_proj": 1, "q_proj": 2, "k_proj": 3, "v_proj": 4, "gate_proj": 5, "up_proj": 0}
    place = next((place for word, place in places.items() if word in name), 1)
    layer = int(name.split(".")[2]) if ".layers." in name else 0
    return IN_256[(place + 2 * layer) % len(IN_256)]


@pytest.mark.parametrize("family, ranks, dtype", [("llama", 2, "F32"), ("llama-mha-tied", 1, HEAD_ROWS)])
def test_blocks_of_256_are_cut_between_them(tmp_path, family, ranks, dtype):
    model = make_model(family, tmp_path / "model", changes=IN_PARTS)
    path = write_gguf(model, tmp_path / "small.gguf", in_parts, drawn=True)
    manifest = package_of(path, tmp_path / "package", ranks)
    check_every_weight(path, tmp_path / "package", manifest)
    assert manifest.dtype == dtype
    check_sizes(path, tmp_path / "package", manifest)


@pytest.mark.parametrize("pipeline, dtype", [(1, HEAD_ROWS), (2, "F32")])  # no table of integers has minimums
def test_an_embedding_with_minimums(tmp_path, pipeline, dtype):
    model = make_model("llama-mha-tied", tmp_path / "model", changes=SHAPE | {"num_key_value_heads": 6})
    path = write_gguf(model, tmp_path / "small.gguf", "Q4_1", drawn=True)
    manifest = package_of(path, tmp_path / "package", 1, pipeline=pipeline)
    check_every_weight(path, tmp_path / "package", manifest)
    assert manifest.dtype == dtype


@pytest.mark.parametrize("kind", BLOCKED)
def test_integers_and_numbers_are_all_of_a_block(kind):
    how, blocks = FORMS[kind], random_blocks(kind, 64)
    values, numbers = integers(blocks.reshape(16, -1), kind)
    assert how.lowest * (not how.has_minimum) <= values.min() and values.max() <= -how.lowest
    each, numbers = 1 + how.has_minimum, numbers.reshape(64, how.numbers)
    scales = numbers[:, :each]
    if how.parts:
        scales = scales[..., None] * numbers[:, each:].reshape(64, each, how.parts)
    scales, minimums, *_ = (*np.moveaxis(scales.reshape(64, each, -1), 1, 0)[..., None], np.float32(0))
    again = values.reshape(*scales.shape[:2], -1) * scales + minimums
    assert np.array_equal(again.reshape(64, -1), dequantize(blocks, GGMLQuantizationType[kind]))


def test_some_may_be_rounded_on_the_way(tmp_path):
    path = write_gguf(make_model("llama", tmp_path / "model", changes=SHAPE), tmp_path / "small.gguf", mixed)
    recipe = Recipe.parse(None, 32, "lm_head=q6/64,embed=q8")
    manifest = package_of(path, tmp_path / "package", 1, recipe)
    source = Repacked(tmp_path / "package", manifest, [0])
    assert source.how_of("lm_head.weight") == Quantisation(6, 64) and manifest.dtype == "Q8-32"
    name = "model.layers.0.self_attn.q_proj.weight"
    assert sha256(source.floats(name, Range(0, 192))) == sha256(of_gguf_py(path)[name])
    source.close()
    assert manifest.tools["recipe"].endswith("lm_head=q6/64, embed=q8/32")


def test_a_cut_within_a_block_is_refused(tmp_path):
    changes = SHAPE | dict(num_attention_heads=12, num_key_value_heads=6, head_dim=8, hidden_size=96)
    path = write_gguf(make_model("llama", tmp_path / "model", changes=changes), tmp_path / "small.gguf", "Q8_0")
    with pytest.raises(PlanError, match=r"o_proj.weight at input 48 .*the block 32..64 .*or convert it with --quant"):
        package_of(path, tmp_path / "package", 2)
    package_of(path, tmp_path / "even", 3)


def test_a_cut_within_a_block_of_256_is_refused(tmp_path, capsys):
    model = make_model("llama", tmp_path / "model", changes=IN_PARTS | dict(num_hidden_layers=1))
    path = write_gguf(model, tmp_path / "small.gguf", "Q4_K", drawn=True)
    plan = ["plan", str(path), "--json", "--dry-run", "--tensor"]
    assert main([*plan, "2"]) == 0 and main([*plan, "3", "--quant", "q4"]) == 0
    assert main([*plan, "3"]) == 2
    said = r"o_proj.weight at input 128 .*the block 0..256 whose 256 .*nearest .* at 256; .*--quant"
    assert re.search(said, capsys.readouterr().err)


def test_only_the_blocks_of_a_slice_are_read(tmp_path):
    path = write_gguf(make_model("llama", tmp_path / "model", changes=SHAPE), tmp_path / "small.gguf", "Q8_0")
    partition_evenly(find_model(str(path)), tmp_path / "package", 3, 1)
    read = convert(tmp_path / "package", Alone(), find_pnnx(), OWN).read
    stored = {name: tensor for name, tensor in GgufCheckpoint(path).tensors.items()}
    linear = sum(stored[name].bytes for name in [*stored] if stored[name].kind.name == "Q8_0")
    norms = sum(tensor.bytes for tensor in stored.values()) - linear
    assert sum(read) == linear + 3 * norms and len(read) == 3


def test_other_models_have_no_blocks(tmp_path):
    model = make_model("llama", tmp_path / "model")
    manifest = package_of(model, tmp_path / "package", 1)
    source = Repacked(tmp_path / "package", manifest, [0])
    assert {source.how_of(name).bits for name in linears_of(manifest.facts)} == {0}
    source.close()
