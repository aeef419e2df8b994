"""convert --calibrate over real ranks: better than without, the same again after an interruption,
and what it refuses."""

import json
import shutil

import pytest

from mpsplit.check.gate import Limits, failures
from mpsplit.check.verification import Trial, verify
from mpsplit.comm import Alone
from mpsplit.errors import ConvertError
from mpsplit.export import convert as converting
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.graph.rank_graphs import make_graphs
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.export.weights import weight_stream
from mpsplit.export.weights.calibration_text import Calibration
from mpsplit.package.agreement import Agreement
from mpsplit.package.manifest import Manifest, rank_folder
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Share, even_plan, lay_out
from mpsplit.runtime.load import load_loop
from tests.cases import splits, thorough
from tests.missing import needs
from tests.models import EXAMPLE
from tests.packages import digests, weight_path
from tests.running import CLEAN, completed, refused

pytestmark = [needs("the kernels"), needs("the torch operators")]
Q4 = Recipe(Quantisation.named("q4", 32), scales="mse")
TOKENS = tuple(tuple((i * 7 + j * j) % 131 for j in range(40)) for i in range(8))


def spoken(lines: slice) -> list[str]:
    told = map(json.loads, (EXAMPLE / "eval.jsonl").read_text(encoding="utf-8").splitlines()[lines])
    return [f"USER: {line['prompt']} ASSISTANT: {line['answer']}</s>" for line in told]


@pytest.fixture(autouse=True)
def graphs_once(monkeypatch):
    """pnnx runs once for the conversions of a test that differ in no more than their weights."""
    known = {}

    def make(told, package, rank, pnnx, recipe, readable):
        key = package.name, rank, str(recipe)
        if key not in known:
            known[key] = make_graphs(told, package, rank, pnnx, recipe, readable)
        return known[key]

    monkeypatch.setattr(converting, "make_graphs", make)


@pytest.fixture(scope="module")
def text(shared_folder, world):
    path = shared_folder / "calibration.txt"
    if world.rank == 0:
        path.write_text("\n".join(spoken(slice(0, 50))), encoding="utf-8")
    world.exchange(None)
    return path


@pytest.fixture(scope="module")
def partition_of(world, shared_folder):
    def make(folder, plan_of, name):
        out = shared_folder / "calibrated" / f"{folder.name}-{name}"
        partition(folder, plan_of(ModelFacts.from_config(read_config(folder))), out, world)
        return out

    return make


def kl(package, folder, world):
    """Mean over lines that no calibration saw; on rank 0."""
    loop = load_loop(package, world)
    found = verify(loop, world, Trial(package, folder, "q4", texts=tuple(spoken(slice(60, 65)))))
    loop.engine.close()
    return world.exchange(found and found.kl)[0]


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("index", [0, *thorough(1)])
def test_it_is_nearer_to_the_model_than_rounding_and_the_same_again(world, partition_of, text, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    package = partition_of(EXAMPLE, lambda facts: even_plan(facts, *cuts[index]), f"{cuts[index]}")
    convert(package, world, find_pnnx(), Recipe(Q4.default))
    plain = kl(package, EXAMPLE, world)
    calibration = Calibration.of(text, package, "gptq", 1000)
    convert(package, world, find_pnnx(), Q4, calibration=calibration)
    assert kl(package, EXAMPLE, world) < 0.9 * plain
    said = Manifest.load(package).tools["recipe"]
    assert said == f"q4/32, mse scales, gptq over 1,000 tokens of the text {calibration.text[:16]}"
    before, last = digests(package), world.size - 1
    world.exchange(None)
    if world.rank == last:
        weight_path(rank_folder(package, last), "packed").unlink()
    world.exchange(None)
    # the others have everything, and help
    again = convert(package, world, find_pnnx(), Q4, calibration=calibration)
    read = again.read
    assert digests(package) == before and read[last] > 0 == sum(read[:last])


def halved(facts):
    """Attention and embedding on the one rank, MLP and head on the other."""
    shares = Share(facts.heads, 0, facts.vocabulary, 0), Share(0, facts.mlp, 0, facts.vocabulary)
    return lay_out(facts, [(facts.layers, shares)])


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("family", ["qwen2-tied", *thorough("llama-bias", ranks=2)])
@pytest.mark.parametrize("index", range(3))
def test_folded_scales_cancel_out(world, partition_of, model_of, family, index):
    """In 8 bits, where a fold that is missing anywhere would be seen; q_proj stays float, and its
    columns are scaled all the same."""
    plans = [lambda facts, cut=cut: even_plan(facts, *cut) for cut in splits(world.size)]
    plans += [halved] * (world.size == 2)
    if index >= len(plans):
        return
    folder = model_of(family)
    package = partition_of(folder, plans[index], str(index))
    calibration = Calibration("awq", TOKENS, "")
    recipe = Recipe.parse("q8", 32, "q_proj=f32", "mse")
    convert(package, world, find_pnnx(), recipe, calibration=calibration)
    found = verify(load_loop(package, world), world, Trial(package, folder, "q8"))
    found = of_rank_0(world, found and found.to_json(), Agreement.from_json)
    assert not failures(found, Limits.of(found)), found


class PowerCut(Exception):
    pass


def test_interrupted_it_goes_on_with_the_same_bytes(partition_of, text, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 14)
    package = partition_of(EXAMPLE, lambda facts: even_plan(facts, 1, 1), "whole")
    pristine = shutil.copytree(package, tmp_path / package.name)
    calibration = Calibration.of(text, package, "awq+gptq", 300)
    convert(package, Alone(), find_pnnx(), Q4, calibration=calibration)
    whole, write, room = digests(package), weight_stream._Continued.write, [0]

    def cut_off(file, data):
        room[0] -= 1
        if not room[0]:
            write(file, data[:5])
            raise PowerCut
        write(file, data)

    monkeypatch.setattr(weight_stream._Continued, "write", cut_off)
    written = 0
    for pieces in (9, 14, 17):  # in a layer, and where its norms are written
        room[0] = pieces
        with pytest.raises(PowerCut):
            convert(pristine, Alone(), find_pnnx(), Q4, calibration=calibration)
        written += pieces - 1
    room[0] = -1
    convert(pristine, Alone(), find_pnnx(), Q4, calibration=calibration)
    assert digests(pristine) == whole
    assert -room[0] < written, "what was whole is not written again"


@pytest.fixture(scope="module")
def package(partition_of):
    return partition_of(EXAMPLE, lambda facts: even_plan(facts, 2, 1), "refused")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--calibrate", "none.txt"], "none.txt cannot be read (.*No such file.*); give a file of plain text in UTF-8"),
        (["--calibrate-method", "awq"], "give the text with --calibrate FILE"),
        (["--calibrate", "TEXT", "--no-calibrate"], "--calibrate and --no-calibrate exclude each other; leave one out"),
        (
            ["--quant", "bf16", "--calibrate", "TEXT"],
            "nothing to do where all weights are bf16; give --quant q8, q6 or q4",
        ),
        (["--calibrate", "TEXT", "--calibrate-tokens", "9"], "--calibrate-tokens 9 says too little; give 128 or more"),
        (
            ["--calibrate", "TEXT", "--serial"],
            "on all of its 2 ranks at once, and this is 1 process; use `mpirun -np 2`",
        ),
    ],
)
def test_what_is_refused(package, text, options, message):
    said = refused("convert", package, "--quant", "q4", *(text if word == "TEXT" else word for word in options))
    assert all(part in said for part in message.split(".*")), said
    assert not list(package.glob("rank-*/*.param"))


def test_texts_that_say_nothing(package, tmp_path):
    for name, content, message in (
        ("empty", b"", "has 0 tokens, and 128 are needed; give a longer text"),
        ("binary", b"\xff\xfe\x00", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvertError, match=message):
            Calibration.of(tmp_path / name, package, "awq", 4096)


def converted(package, *options) -> str:
    """What convert says. One thread: several wait for each other where cores are busy."""
    done = completed("convert", package, "--quant", "q4", *options, env={**CLEAN, "OMP_NUM_THREADS": "1"}, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.seconds(300)
def test_without_a_word_it_calibrates_where_it_can(partition_of, model_of, tmp_path):
    """With the text that ships; --no-calibrate searches scales alone, and so does who has no
    tokenizer."""
    package = partition_of(EXAMPLE, lambda facts: even_plan(facts, 1, 1), "by-default")
    searched = shutil.copytree(package, tmp_path / "searched")
    said = converted(searched, "--no-calibrate")
    assert "calibration:" not in said and "not calibrated" not in said
    assert Manifest.load(searched).tools["recipe"] == "q4/32, mse scales"
    plain = shutil.copytree(package, tmp_path / "plain")
    convert(plain, Alone(), find_pnnx(), Q4)
    assert digests(searched) == digests(plain)
    said = converted(package)
    assert "calibrates with a text that ships with mpsplit; --no-calibrate leaves it out" in said
    assert "calibration: better than none on held-back text for " in said
    assert "mse scales, gptq over 16,384 tokens of the text " in Manifest.load(package).tools["recipe"]
    assert digests(package) != digests(plain)
    bare = partition_of(model_of("llama"), lambda facts: even_plan(facts, 1, 1), "by-default")
    said = converted(bare)
    assert "not calibrated, scales are searched: the package has no tokenizer" in said
    assert Manifest.load(bare).tools["recipe"] == "q4/32, mse scales"


def test_without_a_tokenizer(partition_of, model_of, text):
    package = partition_of(model_of("llama"), lambda facts: even_plan(facts, 2, 1), "refused")
    said = refused("convert", package, "--quant", "q4", "--calibrate", text)
    assert "has no tokenizer to read it with; put tokenizer.json into the model's directory and partition again" in said
