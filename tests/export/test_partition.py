"""What partition and convert leave on disk: bytes, graphs, and nothing when they fail."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError, MpsplitError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import Pnnx, find_pnnx, run_pnnx, shapes_of
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.trace.trace_inputs import Example
from mpsplit.graph.foreign.captured_view import TYPED
from mpsplit.package.manifest import CONFIG, PARTITION
from tests.cases import splits, thorough
from tests.models import FAMILIES, make_model
from tests.packages import digests, partition_evenly


@pytest.mark.parametrize(
    "family, tensor, pipeline",
    [
        *(some := [("llama-mha-tied", 2, 1), ("llama-bias", 2, 2)]),
        *thorough(*(case for f in FAMILIES for case in ((f, 2, 1), (f, 2, 2)) if case not in some)),
    ],
)
def test_the_bytes_of_the_ranks_add_up_to_the_models(model_of, tmp_path, family, tensor, pipeline):
    folder = model_of(family)
    entries = Checkpoint(folder).entries
    size = {name: 4 * torch.Size(entry.shape).numel() for name, entry in entries.items()}
    replicated = sum(s for n, s in size.items() if "norm" in n or n.endswith(("o_proj.bias", "down_proj.bias")))
    tied_head = size["model.embed_tokens.weight"] if "lm_head.weight" not in size else 0
    manifest = partition_evenly(folder, tmp_path / "out", tensor, pipeline)
    assert (
        sum(part.weight_bytes for part in manifest.ranks) == sum(size.values()) + (tensor - 1) * replicated + tied_head
    )


def test_the_graph_is_there_to_read(model_of, tmp_path):
    partition_evenly(model_of("llama"), tmp_path / "vicuna", 2, 1)
    for rank in range(2):
        text = (tmp_path / "vicuna" / f"rank-{rank}" / "graph.fx.txt").read_text()
        assert text.count("mpi_extensions.all_reduce") == 2 * 3 + 1
        assert text.count("scaled_dot_product_attention") == 3
        assert "model.layers.2.mlp.down_proj.weight" in text
        # a miniature
        assert (tmp_path / "vicuna" / f"rank-{rank}" / f"vicuna-{rank}.pt").stat().st_size < 150_000
    # alike but for the sizes behind the lines, which are those of each slice
    texts = [(tmp_path / f"vicuna/rank-{rank}/graph.fx.txt").read_text() for rank in range(2)]
    assert texts[0] != texts[1] and len({tuple(line.split(TYPED)[0] for line in t.splitlines()) for t in texts}) == 1


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_packages_are_the_same_bytes_under_mpi_serially_and_again(world, model_of, shared_folder, family):
    tensor, pipeline = splits(world.size)[-1]
    model = model_of(family)
    package, again = (shared_folder / when / f"{family}-{tensor}x{pipeline}" for when in ("once", "again"))
    partition_evenly(model, package, tensor, pipeline, world)
    convert(package, world, find_pnnx())
    if world.rank == 0:
        partition_evenly(model, again, tensor, pipeline)
        convert(again, Alone(), find_pnnx())
        assert digests(again) == digests(package)


def test_every_pass_leaves_its_text(package_of):
    passes = package_of("llama", 2, 1) / "rank-0" / "passes"
    names = sorted(path.name for path in passes.glob("*.param"))
    assert names == [
        "00-pnnx.param", "01-named_blobs.param", "02-collective_arguments.param", "03-one_spelling.param",
        "04-dynamic_length.param", "05-flat_rope_tables.param", "06-head_from_hidden.param",
        "07-constants_where_read.param", "08-true_sizes.param", "09-all_layers.param", "10-kv_cache.param",
        "11-quantise.param", "pnnx.param",
    ]  # fmt: skip


def test_a_failed_partition_leaves_nothing(tmp_path, monkeypatch):
    folder = make_model("llama", tmp_path / "model")
    monkeypatch.setattr("mpsplit.export.partition.expected_calls", lambda plan, rank: ())
    with pytest.raises(ConvertError, match="the plan asks for 0"):
        partition_evenly(folder, tmp_path / "out", 2, 1)
    assert not (tmp_path / "out").exists()


def test_a_failed_convert_leaves_no_package(tmp_path, monkeypatch):
    folder, out = make_model("llama", tmp_path / "model"), tmp_path / "out"
    partition_evenly(folder, out, 1, 1)
    program = tmp_path / "pnnx"
    program.write_text("#!/bin/sh\necho one; echo two; echo no such operator; exit 3\n")
    program.chmod(0o755)
    with pytest.raises(
        ConvertError,
        match=r"pnnx ended with 3 on out-0.pt: one \| two \| no such operator; the whole log is (.*pnnx.log)",
    ) as caught:
        convert(out, Alone(), Pnnx(str(program)))
    assert "no such operator" in Path(str(caught.value).rpartition(" ")[2]).read_text()
    assert sorted(path.name for path in out.iterdir()) == [CONFIG, PARTITION, "rank-0"]
    assert not list(out.glob("rank-0/.*")) and not (out / "rank-0" / "model.param").exists()


def test_a_directory_of_others_is_not_written_over(tmp_path, model_of):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(MpsplitError, match="holds other files"):
        partition_evenly(model_of("llama"), tmp_path, 1, 1)


def test_a_smaller_partition_replaces_a_larger_one(tmp_path, model_of):
    partition_evenly(model_of("llama"), tmp_path / "out", 2, 1)
    partition_evenly(model_of("llama"), tmp_path / "out", 1, 1)
    assert [path.name for path in sorted(tmp_path.glob("out/rank-*"))] == ["rank-0"]


def test_pnnx_must_be_there(monkeypatch, tmp_path):
    with pytest.raises(ConvertError, match="pnnx was not found at /no/pnnx"):
        find_pnnx("/no/pnnx")
    with pytest.raises(ConvertError, match="--customop /no/lib.so: there is no such library"):
        find_pnnx(customop="/no/lib.so")


@pytest.mark.parametrize(
    "printed, cause",
    [
        (
            "dlopen lib.so failed no such symbol",
            r"it cannot load lib.so \(no such symbol\); the library must be built on",
        ),
        ("Unknown builtin op: own::thing.\nCould not", r"it does not know the operator own::thing; .* \(given: none\)"),
    ],
)
def test_why_pnnx_failed(tmp_path, printed, cause):
    program, script = tmp_path / "pnnx", tmp_path / "x-0.pt"
    program.write_text(f"#!/bin/sh\ncat <<.\n{printed}\nand more\nthat says\nnothing\n.\nexit 6\n")
    program.chmod(0o755)
    with pytest.raises(ConvertError, match=f"pnnx ended with 6 on x-0.pt: {cause}"):
        run_pnnx(Pnnx(str(program)), script, [shapes_of(Example(n, 12, 4)) for n in (7, 11)], tmp_path / "out")


def test_a_manifest_names_the_pnnx_that_made_its_graphs(tmp_path):
    assert find_pnnx().release == version("pnnx")
    (tmp_path / "pnnx").write_text("another")
    assert Pnnx(str(tmp_path / "pnnx")).release == "sha256 ae448ac86c4e8e4d"


def test_the_customop_route_hands_over_operators(tmp_path, model_of):
    """What a pnnx is given, and that torch can load it; test_operator_route.py has a real one."""
    partition_evenly(model_of("llama"), tmp_path / "out", 2, 1, form="operator")
    script = torch.jit.load(tmp_path / "out" / "rank-0" / "out-0.pt")
    # of two layers
    assert str(script.inlined_graph).count("mpi_extensions::all_reduce") == 2 * 2 + 1
    told = tmp_path / "told"
    program, library = tmp_path / "pnnx", tmp_path / "lib.so"
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\nexit 1\n')
    program.chmod(0o755)
    library.write_text("")
    with pytest.raises(ConvertError, match="pnnx ended with 1"):
        convert(tmp_path / "out", Alone(), find_pnnx(str(program), str(library)))
    assert f"customop={library}" in told.read_text() and "moduleop" not in told.read_text()
    with pytest.raises(ConvertError, match="--form module"):
        partition_evenly(model_of("llama"), tmp_path / "out", 2, 1, form="module")
        convert(tmp_path / "out", Alone(), find_pnnx(str(program), str(library)))


def test_unused_names_are_listed(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_model("qwen2-tied", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": torch.zeros(131, 64)}, folder / "model.safetensors")
    manifest = partition_evenly(folder, tmp_path / "out", 1, 1)
    assert manifest.unused == ("lm_head.weight",)
    assert json.loads((tmp_path / "out" / PARTITION).read_text())["unused"] == ["lm_head.weight"]
