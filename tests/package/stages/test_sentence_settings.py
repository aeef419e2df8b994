"""What modules.json and the files it names say of a text's embedding."""

import json

import pytest

from mpsplit.errors import ModelError, PackageError
from mpsplit.package.stages.sentence_settings import SentenceSettings

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALISE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.fixture
def model(tmp_path):
    """Writes what is said, and reads it."""

    def read(modules, pooling, texts=None, general=None) -> SentenceSettings | None:
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        for name, said in (
            ("modules.json", modules),
            ("1_Pooling/config.json", pooling),
            ("sentence_bert_config.json", texts),
            ("config_sentence_transformers.json", general),
        ):
            if said is not None:
                (tmp_path / name).write_text(said if isinstance(said, str) else json.dumps(said))
        return SentenceSettings.read(tmp_path)

    return read


def test_without_modules_nothing_is_described(tmp_path, model):
    assert SentenceSettings.read(tmp_path) is None
    assert model(MODULES[:1], {}) is None


def test_of_several_models(model):
    mini = model([*MODULES, NORMALISE], {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    assert mini == SentenceSettings(("mean",), normalise=True)
    both = model(MODULES, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    assert both == SentenceSettings(("cls", "mean"), normalise=False)
    newer = model(MODULES, {"pooling_mode": "lasttoken"}, {"max_seq_length": 256, "do_lower_case": True})
    assert newer == SentenceSettings(("lasttoken",), normalise=False, longest=256, lower=True)
    joined = model(MODULES, {"pooling_mode": ["mean", "max"]}, {})
    assert joined.pooling == ("max", "mean")
    asks = model(MODULES, {"pooling_mode": "cls"}, None, {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert asks.prompt == "query: "


@pytest.mark.parametrize(
    "said, message",
    [
        (([*MODULES, DENSE], {"pooling_mode": "cls"}), "has a Dense after the model"),
        ((MODULES, {"pooling_mode": "first"}), "asks for first; pooling may be cls, max, mean"),
        ((MODULES, {}), "asks for nothing"),
        (("{", {}), "modules.json is not JSON"),
        (({}, {}), "holds a dict, where a list belongs"),
        ((MODULES, []), "holds a list, where a dict belongs"),
        (
            (MODULES, {"pooling_mode": "cls", "include_prompt": False}, None,
             {"prompts": {"q": "query: "}, "default_prompt_name": "q"}),
            "the tokens of the prompt 'query: ' are not to be pooled",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(model, said, message):
    with pytest.raises(ModelError, match=message.replace("(", r"\(")):
        model(*said)


def test_it_is_kept_and_looked_over():
    settings = SentenceSettings(("cls", "mean"), True, 256, False, "a\nb")
    data = json.loads(json.dumps(vars(settings)))
    assert SentenceSettings.from_json(data) == settings
    with pytest.raises(PackageError, match=r"sentences.pooling\[0\] is 'first'"):
        SentenceSettings.from_json(data | {"pooling": ["first"]})
    with pytest.raises(PackageError, match=r"sentences.longest is -1"):
        SentenceSettings.from_json(data | {"longest": -1})
