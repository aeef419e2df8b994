"""Of blocks that a GGUF file has, verify allows what rounding the inputs does, and not one bit of a
weight."""

from dataclasses import replace

import pytest

from mpsplit.check.gate import MOST_KL, Limits, failures
from mpsplit.check.stored_weights import found_weights
from mpsplit.check.verification import Trial, stored_kind, verify
from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.model_source import find_model
from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.quantisation import KINDS
from mpsplit.package.stored.recipe import Recipe
from mpsplit.runtime.load import load_loop
from tests.cases import thorough
from tests.ggufs import write_gguf
from tests.missing import needs
from tests.models import make_model
from tests.packages import partition_evenly

SHAPE = dict(hidden_size=256, intermediate_size=512, num_attention_heads=16, num_key_value_heads=2, head_dim=32,
             num_hidden_layers=2)  # fmt: skip


@needs("the kernels")
@pytest.mark.parametrize("kind", ["Q3_K", "Q4_1", *thorough("Q5_1", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")])
def test_kept_blocks_lose_what_their_inputs_do(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gguf_folder, "cache", lambda: tmp_path / "cache")
    model = make_model("llama", tmp_path / "model", changes=SHAPE)
    model = find_model(str(write_gguf(model, tmp_path / "small.gguf", kind, drawn=True)))
    package = tmp_path / "package"
    partition_evenly(model, package, 1, 1)
    convert(package, Alone(), find_pnnx(), Recipe.parse(None, 32))
    manifest = Manifest.load(package)
    trial = Trial(package, model, layers=True)
    trial = replace(trial, kind=stored_kind(manifest, trial, Alone()))
    loop = load_loop(package, Alone())
    found = verify(loop, Alone(), trial)
    loop.engine.close()
    assert not failures(found, Limits.of(found))
    assert 0.9 < found.kl / found.rounding.kl < 1.1 * MOST_KL[found.kind]
    weights = list(found_weights(package, manifest, model, 0))
    assert {weight.kind for weight in weights} == {"kept", "exact"} and not any(weight.off for weight in weights)


def test_every_kind_was_measured():
    assert {*MOST_KL} == {*KINDS}
