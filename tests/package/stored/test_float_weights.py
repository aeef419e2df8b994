import numpy as np
import pytest

from mpsplit.errors import ConvertError, PackageError
from mpsplit.native import cpp
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import ALIGNMENT, FLAG, PackedFile, read_weights, weight_bytes, weights_of
from mpsplit.package.stored.quantisation import KINDS, QLinear, Quantisation
from tests.missing import needs
from tests.packages import weight_path

PARAM = Param(
    (
        Layer("RMSNorm", "norm", ("a",), ("b",), {"0": "4", "2": "1"}),
        Layer("RMSNorm", "plain", ("b",), ("c",), {"0": "4", "2": "0"}),
        Layer("Gemm", "with_bias", ("c",), ("d",), {"8": "3", "9": "4", "10": "4"}),
        Layer("Gemm", "without", ("d",), ("e",), {"8": "2", "9": "3", "10": "-1"}),
    )
)


def test_weights_of_a_real_package_are_all_accounted_for(package_of):
    folder = package_of("llama-bias", 2, 1) / "rank-0"
    weights = read_weights(Param.load(folder / "model.param"), weight_path(folder))
    assert {"model.norm", "lm_head"} <= set(weights)
    assert len(weights["model.layers.0.self_attn.q_proj"]) == 2  # weight and bias; the rest raises


def test_packed_arrays_of_any_size_begin_at_aligned_offsets(tmp_path):
    sizes, expected = (1, ALIGNMENT, ALIGNMENT + 3, 2), b""
    with PackedFile(tmp_path / "packed.bin") as file:
        for size in sizes:
            array = np.full(size, size, np.uint8)
            assert file.append(array) * ALIGNMENT == len(expected)
            expected += array.tobytes() + bytes(-size % ALIGNMENT)
    assert (tmp_path / "packed.bin").read_bytes() == expected


def test_arrays_are_found_and_the_file_read_to_its_end(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"norm": [(4,)], "with_bias": [(3, 4), (3,)], "without": [(2, 3)]}
    weights = {name: [rng.standard_normal(s).astype(np.float32) for s in all_] for name, all_ in shapes.items()}
    arrays = [(FLAG * (name != "norm"), array) for name, all_ in weights.items() for array in all_]
    (tmp_path / "a.bin").write_bytes(b"".join(flag + array.tobytes() for flag, array in arrays))
    found = read_weights(PARAM, tmp_path / "a.bin")
    assert found.keys() == weights.keys()
    for name, arrays in weights.items():
        assert all(np.array_equal(x, y) for x, y in zip(arrays, found[name], strict=True))
    with open(tmp_path / "a.bin", "ab") as file:
        file.write(b"more")
    with pytest.raises(PackageError, match="has 116 bytes, its .param accounts for 112"):
        read_weights(PARAM, tmp_path / "a.bin")


def test_layers_say_which_weights_they_own():
    assert [weights_of(layer) for layer in PARAM.layers] == [
        ("norm.weight",), (), ("with_bias.weight", "with_bias.bias"), ("without.weight",),
    ]  # fmt: skip
    assert weights_of(Layer("MemoryData", "o_proj.bias", (), ("a",), {"0": "4"})) == ("o_proj.bias",)
    blocks = [Layer("Gemm", "x", params={"8": "2", "9": "64", "10": bias, "18": "401"}) for bias in ("-1", "4")]
    assert [weights_of(layer) for layer in blocks] == [("x.weight",), ("x.weight", "x.bias")]
    assert [weight_bytes(Param((layer,))) for layer in blocks] == [2 * 32 + 8, 2 * 32 + 4 + 8 + 8]
    packed = [Layer("QLinear", "x", params=QLinear(64, 128, 4, 32, 7, 4608, bias).params()) for bias in (-1, 79)]
    assert [weights_of(layer) for layer in packed] == [("x.weight",), ("x.weight", "x.bias")]


def test_a_layers_parameters_survive():
    q = QLinear(64, 128, 4, 32, 7, 4608, -1)
    assert QLinear.of(Layer("QLinear", "x", params=q.params())) == q


def test_kinds():
    assert Quantisation.named("q4", 64) == Quantisation(20, 64) and Quantisation.named("q4", 64).kind == "q4"
    assert Quantisation.named("i4", 64) == Quantisation(4, 64) == Quantisation(20, 64).evenly
    assert [str(Quantisation.named(kind, 64)) for kind in ("q4", "i4", "m5", "f32", "k4", "x4", "q3")] == [
        "4 bits x 64, by table", "4 bits x 64", "5 bits x 64, with a minimum", "float32",
        "4 bits x 256, in 8 parts, with a minimum", "4 bits x 256, in 8 parts, by table", "3 bits x 64, by table",
    ]  # fmt: skip
    assert Quantisation.named("bf16", 64) == Quantisation(16, 32) and Quantisation(16, 32).fits(33)
    for kind, block in (("q5", 32), ("q4", 48), ("q4", 256)):
        with pytest.raises(
            ConvertError, match="kinds are f32, bf16, q8, k6, .*, i4, k3, q3, k2, q2, blocks 32, 64, 128"
        ):
            Quantisation.named(kind, block)


@needs("the kernels")
@pytest.mark.parametrize(
    "kind, block",
    [
        *(
            ("bf16", 32),
            ("q8", 32),
            ("q6", 64),
            ("q4", 128),
            ("i4", 32),
            ("q3", 32),
            ("q2", 64),
            ("m5", 32),
            ("m4", 64),
        ),
        *((kind, 256) for kind in ("k6", "k5", "k4", "x4", "k3", "k2")),
    ],
)
@pytest.mark.parametrize("n, k", [(1, 256), (16, 768), (1000, 1280)])
def test_how_much_a_matrix_takes_is_what_the_kernels_say(kind, block, n, k):
    size = QLinear(n, k, KINDS[kind], block, 0, 0, -1).packed_bytes
    assert size == cpp.kernels().packed_bytes(n, k, KINDS[kind], block)
    assert QLinear(n, k + 1, KINDS[kind], block, 0, 0, -1).packed_bytes == 0 or kind == "bf16"


def test_a_size_that_ncnn_cannot_count_to_is_left_to_the_shape():
    large = QLinear(131072, 8192, 16, 32, 7, 131072 * 8192 * 2, -1)
    assert large.bytes == large.packed_bytes and large.params()["5"] == "-1"
    assert QLinear.of(Layer("QLinear", "x", params=large.params())) == large


def test_files_of_old_packages_are_told_from_those_of_the_table():
    """Both are kinds of 4 bits; integers were called q4 when files were named already."""
    assert Quantisation(4, 32).address == "q4/32" and Quantisation(8, 64).address == "q8/64"
    assert len({Quantisation.named(kind, 32).address for kind in KINDS}) == len(KINDS)
