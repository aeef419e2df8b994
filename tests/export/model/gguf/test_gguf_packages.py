"""A package made of a GGUF file is that of the model in it."""

import os

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import ModelError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.gguf.gguf_folder import unpacked
from mpsplit.export.model.model_origin import Origin
from mpsplit.export.model.model_source import find_model
from mpsplit.package.stored.recipe import Recipe
from tests.cases import thorough
from tests.ggufs import write_gguf
from tests.models import make_model
from tests.packages import digests, partition_evenly


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_folder, "cache", lambda: tmp_path / "cache")


def weights_of(package):
    return {name: digest for name, digest in digests(package).items() if "/weights/" in name}


@pytest.mark.parametrize("family", ["llama-bias", "qwen2-tied", *thorough("granite")])
def test_weight_files_are_those_of_the_folder(tmp_path, family):
    model = make_model(family, tmp_path / "model")
    gguf = find_model(str(write_gguf(model, tmp_path / "small.gguf")))
    made = []
    for source in (model, gguf):
        package = tmp_path / f"of-{source.name}"
        manifest = partition_evenly(source, package, 2, 1)
        convert(package, Alone(), find_pnnx(), Recipe.parse("q8", 32))
        made.append((weights_of(package), manifest.rope, manifest.dtype, manifest.facts))
    assert made[0] == made[1] and len(made[0][0]) > 4


def test_the_file_is_where_the_package_comes_from(tmp_path):
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", "Q8_0")
    package = tmp_path / "package"
    assert partition_evenly(find_model(str(path)), package, 1, 1).model == "small"
    assert Origin.load(package).place == path
    moved = path.rename(tmp_path / "moved.gguf")
    with pytest.raises(ModelError, match="no longer at .*small.gguf; say where it is with --model"):
        convert(package, Alone(), find_pnnx())
    convert(package, Alone(), find_pnnx(), model=moved.rename(tmp_path / "small.gguf"))
    data = path.read_bytes()
    write_gguf(tmp_path / "model", path, "Q4_0")
    with pytest.raises(ModelError, match="is not the model that was partitioned"):
        convert(package, Alone(), find_pnnx(), model=path)
    path.write_bytes(data)
    os.utime(path, (1, 1))
    with pytest.raises(ModelError, match="small.gguf was written to since it was partitioned"):
        convert(package, Alone(), find_pnnx())


def test_a_file_that_was_written_to_is_unpacked_again(tmp_path):
    model = make_model("llama", tmp_path / "model")
    first = unpacked(write_gguf(model, tmp_path / "small.gguf"))
    assert unpacked(tmp_path / "small.gguf") == first
    second = unpacked(write_gguf(model, tmp_path / "small.gguf", settings={"llama.context_length": 64}))
    assert second != first and '"max_position_embeddings": 64' in (second / "config.json").read_text()


def test_llama_3_scales_its_rotary_embedding_by_a_tensor(tmp_path):
    from mpsplit.export.model.gguf.gguf_config import _llama_3_frequencies, config_of
    from mpsplit.export.model.gguf.gguf_header import read_gguf

    model = make_model("llama", tmp_path / "model")
    for factor, found in ((8.0, 8.0), (32.0, 32.0), (3.0, None)):
        frequencies = _llama_3_frequencies(500000.0, 8, factor).astype(np.float32)
        path = write_gguf(
            model,
            tmp_path / "small.gguf",
            settings={"llama.rope.freq_base": 500000.0},
            more={"rope_freqs.weight": frequencies},
        )
        if found is None:
            with pytest.raises(ModelError, match="as no known model does"):
                config_of(read_gguf(path))
        else:
            rope = config_of(read_gguf(path))["rope_parameters"]
            assert rope["rope_type"] == "llama3" and rope["factor"] == found
