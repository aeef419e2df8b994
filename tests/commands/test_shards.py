"""What commands say of shards, over real ranks, and what they refuse in one line."""

import json

import numpy as np
import pytest

from tests.networks import make_network
from tests.running import mpsplit, refused

LISTS = {"layers.0.mlp.fc1": {"rows": [["0-99", 191], ["100-190"]]}, "1.mlp.fc*": {"rows": 3}}
COLUMNS = ("--shards", "layers.0.mlp.fc2=columns:3")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return make_network("vit", tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def shards(vit):
    path = vit.parent / "shards.json"
    path.write_text(json.dumps(LISTS))
    return "--stages", 6, "--shards", path, *COLUMNS


@pytest.fixture(scope="module")
def package(vit, shards):
    """Of 3 ranks."""
    mpsplit("partition", vit, *shards, "--out", vit.parent / "package", "--ranks", 3, "--serial")
    mpsplit("convert", vit.parent / "package", "--serial")
    return vit.parent / "package"


def test_tables_tell_what_is_in_shards(vit, shards):
    table = mpsplit("stages", vit, *shards)
    assert "shards of vit.layers.0.mlp: vit.layers.0.mlp.fc1: 101 + 91 rows on ranks 0, 1, " in table
    assert "vit.layers.0.mlp.fc2: 64 + 64 + 64 columns on ranks 0, 1, 2, " in table
    pipeline = json.loads(mpsplit("stages", vit, *shards, "--json"))
    parts = [part for stage in pipeline["stages"] for part in stage["parts"]]
    assert parts[0]["shards"] == [[0, 99, 191, 191], [100, 190]] and len(parts) == 4
    paired = mpsplit("stages", vit, "--stages", 6, "--shards", "1.mlp.fc1=rows:2", "--shards", "1.mlp.fc2=columns:2")
    assert "vit.layers.1.mlp.fc1 -> vit.layers.1.mlp.fc2: 96 + 96 rows, then columns on ranks 0, 1" in paired


@pytest.mark.seconds(240)
def test_ranks_that_only_help_are_planned_and_have_files(vit, tmp_path):
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    given = ("--stages", 1, "--shards", "fc1=rows:3")
    shown = mpsplit("plan", vit, *given, "--memory", "4G,4G,4G", "--flop", "1G", "--out", plan)
    assert "1 stages on 3 ranks" in shown and "others' shards" in shown
    shares = json.loads(plan.read_text())["ranks"]
    assert [share["shards"] for share in shares] == [0, 2, 2] and shares[1]["weights"] == 2 * 4 * 64 * 49
    assert "is for 3 ranks, 2 were asked for" in refused("partition", vit, *given, "--plan", plan, "--out", out,
                                                        "--ranks", 2, "--serial")  # fmt: skip
    table = mpsplit("partition", vit, *given, "--plan", plan, "--out", out, "--serial")
    assert "rank 2: 0 stages, 2 shards, 25,088 bytes of weights" in table
    assert "rank 2: 0 stages, 2 shards" in mpsplit("convert", out, "--serial", "--quant", "q8")
    assert "within the limits of q8 over 16 inputs" in mpsplit("verify", out, vit)


@pytest.mark.seconds(240)
def test_ranks_compute_what_the_model_says_and_inspect_tells_it(vit, package, tmp_path):
    assert "; 4 linears in shards" in mpsplit("verify", package, vit)
    shown = mpsplit("inspect", package, "--check")
    assert "rank-2/stage-02.shard-01.bin" in shown and "101 + 91 rows on ranks 1, 2" in shown
    np.savez(tmp_path / "x.npz", pixel_values=np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32))
    mpsplit("run", package, "--tensor", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    mpsplit("partition", vit, "--stages", 6, "--out", tmp_path / "whole", "--serial")
    mpsplit("convert", tmp_path / "whole", "--serial")
    mpsplit("run", tmp_path / "whole", "--tensor", tmp_path / "x.npz", "--out", tmp_path / "z.npz")
    found, wanted = (np.load(tmp_path / name)["logits"] for name in ("y.npz", "z.npz"))
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "said, message",
    [
        ({"0.mlp.fc1": {"rows": [["0-99"], ["101-191"]]}}, "has 1 of its 192 rows in no shard, such as 100"),
        ({"0.mlp.fc1": {"rows": [["0-100"], ["100-191"]]}}, "has 1 of its 192 rows more than once, such as 100"),
        ({"0.mlp.fc1": {"columns": [["0-20"], ["21-48"]]}}, "has columns 0 to 47, and 1 indices are none of them"),
        ("mlp.fc7=rows:2", "modules has such a path; name some of"),
        ("layernorm_before=rows:2", "vit.layers.0.layernorm_before is no linear and no 1x1 convolution"),
        ("fc1=rows:3", "vit.layers.0.mlp.fc1 has 3 shards, there are 2 ranks; use `mpirun -np 3`, or 2 shards"),
        ("fc1=halves:3", "--shards fc1=halves:3 is not understood; give PATTERN=rows:N"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_numbers(vit, tmp_path, said, message):
    if isinstance(said, dict):
        (tmp_path / "lists.json").write_text(json.dumps(said))
        said = tmp_path / "lists.json"
    out = tmp_path / "out"
    assert message in refused("partition", vit, "--stages", 6, "--shards", said, "--ranks", 2, "--serial", "--out", out)
    assert not out.exists()


def test_ranks_that_would_have_nothing_are_refused(vit, tmp_path):
    given = ("--stages", 1, "--shards", "fc1=rows:2", "--ranks", 3, "--serial", "--out", tmp_path / "out")
    assert "1 stages and their shards are for 2 ranks, 3 were asked for" in refused("partition", vit, *given)
