"""What commands say of a model in stages, and what they refuse in one line."""

import json

import numpy as np
import pytest

from tests.networks import make_network, make_reader
from tests.running import CLEAN, completed, mpsplit, refused


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return make_network("vit", tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_network("bert", tmp_path_factory.mktemp("models") / "bert")


def packaged(model, stages: int, ranks: int, *convert):
    package = model.parent / f"package-{stages}-{ranks}"
    mpsplit("partition", model, "--stages", stages, "--out", package, "--ranks", ranks, "--serial")
    mpsplit("convert", package, "--serial", *convert)
    return package


@pytest.fixture(scope="module")
def images(vit):
    return packaged(vit, 6, 2, "--quant", "q8")


@pytest.fixture(scope="module")
def texts(bert):
    return packaged(bert, 4, 1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return packaged(make_reader("encoder", tmp_path_factory.mktemp("models") / "encoder"), 4, 2)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return packaged(make_reader("scorer", tmp_path_factory.mktemp("models") / "scorer"), 3, 1)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.ppm"
    path.write_bytes(b"P6 40 40 255\n" + bytes(i % 251 for i in range(40 * 40 * 3)))
    return path


def test_the_table_of_a_vit_is_embedding_halves_and_head(vit):
    pipeline = json.loads(mpsplit("stages", vit, "--stages", 6, "--json"))
    names = [stage["name"] for stage in pipeline["stages"]]
    halves = [f"vit.layers.{layer}.{half}" for layer in (0, 1) for half in ("attention", "mlp")]
    assert names == ["vit.embeddings", *halves, "vit"]  # the last norm and the head
    assert all(len(stage["inputs"]) == len(stage["outputs"]) == 1 for stage in pipeline["stages"])
    table = mpsplit("stages", vit, "--stages", 6)
    assert "ViTForImageClassification: 6 stages" in table and "pixel_values [1, 3, 32, 32] float32" in table


def test_modules_say_where_to_cut(vit):
    pipeline = json.loads(mpsplit("stages", vit, "--stages", "vit.layers.1,classifier", "--json"))
    assert len(pipeline["stages"]) == 3


@pytest.mark.seconds(240)
def test_images_texts_and_arrays(images, texts, picture, tmp_path):
    said = json.loads(mpsplit("run", images, "--image", picture, picture, "--top", 2, "--json"))
    assert said[0] == said[1] and len(said[0]["labels"]) == 2
    assert 0 < said[0]["labels"][1]["score"] <= said[0]["labels"][0]["score"] < 1
    ids = np.random.default_rng(0).integers(0, 50, (3, 9))
    np.savez(tmp_path / "x.npz", input_ids=ids, token_type_ids=ids * 0)
    mpsplit("run", texts, "--tensor", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    outputs = np.load(tmp_path / "y.npz")
    assert outputs["last_hidden_state"].shape == (3, 9, 32) and outputs["pooler_output"].shape == (3, 32)
    vector = json.loads(mpsplit("run", texts, "--tensor", tmp_path / "x.npz", "--json"))[0]["embedding"]
    assert abs(np.linalg.norm(vector) - 1) < 1e-5


@pytest.mark.seconds(240)
def test_texts_have_embeddings_and_cosines(encoder):
    one = json.loads(mpsplit("run", encoder, "--text", "a cat", "--json"))
    assert set(one) == {"embedding"} and abs(np.linalg.norm(one["embedding"]) - 1) < 1e-5
    found = json.loads(mpsplit("run", encoder, "--text", "a cat", "two dogs", "A CAT", "--json"))
    vectors = np.array([each["embedding"] for each in found])
    np.testing.assert_allclose([each["cosines"] for each in found], vectors @ vectors.T, atol=1e-6)
    assert found[0]["embedding"] == found[2]["embedding"] == one["embedding"]
    shown = mpsplit("run", encoder, "--text", "a cat", "A CAT").splitlines()
    assert shown[1].startswith("A CAT: embedding of 32: ") and shown[1].endswith("; cosines 1.0000, 1.0000")


@pytest.mark.seconds(240)
def test_a_cross_encoder_scores_texts_for_a_query(scorer):
    found = json.loads(mpsplit("run", scorer, "--query", "pets", "--text", "a cat", "two dogs", "--json"))
    assert all(set(each) == {"score"} and 0 < each["score"] < 1 for each in found)
    assert found[0]["score"] != found[1]["score"]
    assert mpsplit("run", scorer, "--query", "pets", "--text", "a cat") == f"a cat: {found[0]['score']:.4f}\n"


@pytest.mark.seconds(240)
def test_texts_that_cannot_be_read_are_refused(encoder, scorer):
    assert "the text has 49 tokens, the model takes 1 to 48" in refused("run", encoder, "--text", "fine", "a" * 47)
    assert "--query is for a cross-encoder and --text" in refused("run", encoder, "--query", "a", "--text", "b")
    assert "--query is for a cross-encoder and --text" in refused("run", scorer, "--query", "a", "--tensor", "x.npz")
    assert "the text has half a character" in refused(
        "run", encoder, "--text", b"\xff".decode(errors="surrogateescape")
    )


@pytest.mark.seconds(240)
def test_verify_keeps_what_it_found_and_inspect_says_it(bert, texts):
    assert "the same over" in mpsplit("verify", texts, bert)
    shown = mpsplit("inspect", texts, "--check")
    assert "verified: last_hidden_state" in shown and "files of ranks are as the manifest says" in shown
    found = json.loads(mpsplit("verify", texts, bert, "--json", "--tolerance", 1e-12, code=1))
    assert not found["same"] and found["last_hidden_state"]["cosine"] > 0.999999


@pytest.mark.seconds(240)
def test_a_plan_is_what_partition_follows(vit, tmp_path):
    plan = tmp_path / "plan.json"
    shown = mpsplit("plan", vit, "--stages", 6, "--memory", "4G,4G", "--flop", "1G", "--out", plan)
    assert "6 stages on 2 ranks" in shown and "inputs a second when the pipeline is full" in shown
    out = mpsplit("partition", vit, "--stages", 6, "--plan", plan, "--out", tmp_path / "p", "--serial")
    ends = json.loads(plan.read_text())["stage_ends"]
    assert f"rank 0: {ends[0]} stages" in out and f"rank 1: {6 - ends[0]} stages" in out
    said = refused("partition", vit, "--stages", 5, "--plan", plan, "--out", tmp_path / "q", "--serial")
    assert "has 6 stages, the model was cut into 5" in said


def test_what_cannot_be_cut_is_refused(vit, tmp_path):
    assert "places where it can be cut, 999 stages were asked for" in refused("stages", vit, "--stages", 999)
    assert "the graph has no such module" in refused("stages", vit, "--stages", "vit.layer.0")
    assert "--tensor is for decoders" in refused("plan", vit, "--tensor", 2)
    said = refused("partition", vit, "--stages", 2, "--ranks", 3, "--out", tmp_path / "p", "--serial")
    assert "2 stages cannot be given to 3 ranks" in said and not (tmp_path / "p").exists()


@pytest.mark.seconds(240)
def test_what_cannot_be_run_is_refused(images, texts, picture, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    assert "no.png (8 bytes) is no image" in refused("run", images, "--image", tmp_path / "no.png")
    assert "this model takes pixel_values, no text" in refused("run", images, "--text", "Hello")
    assert "this model takes input_ids, token_type_ids, no image" in refused("run", texts, "--image", picture)
    assert "has no tokenizer" in refused("run", texts, "--text", "Hello")
    assert "give it --image FILE, --text TEXT or --tensor FILE.npz" in refused("run", texts, "--prompt", "Hello")
    assert "has stages for 2 ranks, 3 were started" in refused("run", images, "--image", picture, "--ranks", 3)
    for ids, message in (
        (np.zeros((1, 97), np.int64), "has a length of 97, the model has room for 1 to 96"),
        (np.zeros((1, 2, 3), np.int64), "the model takes [1, length]"),
    ):
        np.savez(tmp_path / "x.npz", input_ids=ids, token_type_ids=ids)
        assert message in refused("run", texts, "--tensor", tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", ids=np.zeros(3))
    assert "has no input_ids; the model takes input_ids, token_type_ids" in refused(
        "run", texts, "--tensor", tmp_path / "x.npz"
    )
    assert "holds 'stages', and this command is for a package of a decoder" in refused("chat", texts)
    assert "--calibrate is for decoders" in refused("convert", texts, "--calibrate", picture, "--quant", "q8")


def test_a_plain_package_is_refused_where_a_key_is_configured(images, picture):
    for command in (["run", images, "--image", picture], ["serve", images], ["inspect", images]):
        done = completed(*command, env=CLEAN | {"MPSPLIT_KEY": "00" * 32})
        assert done.returncode == 2, command
        assert "is plain, MPSPLIT_KEY names a key: take MPSPLIT_KEY away if it may be plain" in done.stderr


@pytest.mark.seconds(240)
def test_a_file_that_was_changed_is_refused(texts, tmp_path):
    import shutil

    package = shutil.copytree(texts, tmp_path / "copy")
    np.savez(tmp_path / "x.npz", input_ids=np.zeros((1, 3), np.int64), token_type_ids=np.zeros((1, 3), np.int64))
    path = package / "rank-0" / "stage-01.bin"
    path.write_bytes(bytes(path.stat().st_size))
    assert "stage-01.bin was changed" in refused("run", package, "--tensor", tmp_path / "x.npz")
    (package / "stages.json").write_text("{}")
    assert "stages.json" in refused("run", package, "--tensor", tmp_path / "x.npz")
