"""What a package of a GGUF file's own blocks answers is what the file's floats do: every integer
that a block can hold, and other types for parts of one product."""

import json

import numpy as np
import pytest
from gguf import GGUFReader

from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.model_source import find_model
from mpsplit.package.stored.recipe import Recipe
from tests.cases import thorough
from tests.ggufs import write_gguf
from tests.missing import needs
from tests.models import make_model
from tests.packages import partition_evenly
from tests.running import mpsplit

# SmolLM2's heads and a width that 256 does not divide; 3 ranks cut between blocks of 32
SHAPE = dict(hidden_size=288, intermediate_size=288, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=2)
# and one that 256 divides, on 2 ranks too
IN_PARTS = dict(hidden_size=256, intermediate_size=512, num_attention_heads=16, num_key_value_heads=2, head_dim=32,
                num_hidden_layers=2)  # fmt: skip
PLAIN_8 = 1e-3  # KL of inputs in 8 bits alone, which nothing here adds to
MIXED = {"q_proj": "Q4_0", "k_proj": "Q8_0", "v_proj": "Q5_1", "o_proj": "Q4_0", "gate_proj": "IQ4_NL",
         "up_proj": "Q4_1", "down_proj": "Q5_0", "embed_tokens": "Q8_0"}  # fmt: skip

# a part of a product may be in blocks of 32 beside them
MIXED_256 = {"q_proj": "Q4_K", "k_proj": "Q8_0", "v_proj": "Q6_K", "o_proj": "Q5_K", "gate_proj": "IQ4_XS",
             "up_proj": "Q3_K", "down_proj": "Q2_K", "embed_tokens": "Q6_K"}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_folder, "cache", lambda: tmp_path / "cache")


def mixed(name: str, types: dict[str, str] = MIXED) -> str:
    return next((kind for word, kind in types.items() if word in name), "F32")


def in_parts(name: str) -> str:
    return mixed(name, MIXED_256)


@needs("the engine")
@pytest.mark.parametrize(
    "ranks, kind",
    [(3, mixed), (1, "Q4_1"), (2, in_parts), *thorough((1, mixed), (3, "Q8_0"))],
    ids=["3-mixed", "1-Q4_1", "2-in_parts", "1-mixed", "3-Q8_0"],
)
def test_it_answers_as_the_floats_do(tmp_path, ranks, kind):
    model = make_model("llama-mha-tied", tmp_path / "model", changes=IN_PARTS if kind is in_parts else SHAPE)
    path = write_gguf(model, tmp_path / "small.gguf", kind, drawn=True)
    folder, package = find_model(str(path)), tmp_path / "package"
    partition_evenly(folder, package, ranks, 1)
    convert(package, Alone(), find_pnnx(), Recipe.parse(None, 32))
    found = json.loads(mpsplit("verify", package, folder, "--json"))
    assert found["same"] and found["kl"] <= PLAIN_8, found
    assert [of_kind["worst"] for of_kind in found["weights"]] == [0] * len(found["weights"])


@pytest.mark.parametrize("kind, lowest", [("Q8_0", 0x80), ("Q4_0", 0x00)])
def test_the_lowest_integer_is_among_what_is_drawn(tmp_path, kind, lowest):
    path = write_gguf(make_model("llama", tmp_path / "model", changes=SHAPE), tmp_path / "small.gguf", kind, drawn=True)
    blocks = next(tensor.data for tensor in GGUFReader(path).tensors if tensor.name == "blk.0.ffn_up.weight")
    each = np.asarray(blocks).reshape(-1, 34 if kind == "Q8_0" else 18)[:, 2:]
    assert ((each if kind == "Q8_0" else each & 15) == lowest).any()
