"""Who has the last word on how answers are to be, and what is refused."""

import json
from dataclasses import fields

import pytest

from mpsplit.cli import build_parser
from mpsplit.errors import RunError
from mpsplit.options.settings_options import layers_of
from mpsplit.runtime.choose.sampling import PRESETS, Sampling
from mpsplit.runtime.talk.answer_settings import (
    SAMPLING,
    SETTINGS,
    Settings,
    changed,
    layer,
    merged,
    pair,
    read_config,
    shown,
)


def test_the_table_names_every_setting_once():
    named = set(SETTINGS) - {"preset"}
    assert named == {f.name for f in fields(Settings)} - {"sampling"} | set(SAMPLING)
    assert merged() == Settings() and merged().sampling == Sampling()


def test_file_before_session_before_call():
    file = {"temperature": 0.1, "top_k": 5, "seed": 1, "stop": ("a", "b")}
    session = {"temperature": 0.2, "top_k": 6}
    call = {"temperature": 0.3, "stop": ("c",)}
    settings = merged(file, session, call)
    assert settings.sampling == Sampling(temperature=0.3, top_k=6, seed=1) and settings.stop == ("c",)


def test_a_preset_is_weaker_than_its_own_layer_and_stronger_than_those_before():
    preset = PRESETS["penalty_sample"]
    assert merged({"min_p": 0.1, "seed": 3}, {"preset": "penalty_sample"}).sampling == Sampling(
        0.7, 50, 0.9, 1.1, 64, seed=3, min_keep=5
    )
    assert merged({"temperature": 0.2, "preset": "penalty_sample"}).sampling.temperature == 0.2
    assert merged({"preset": "penalty_sample"}, {"preset": "greedy"}).sampling == Sampling()
    session = changed({"temperature": 0.2, "seed": 3, "system": "x"}, {"preset": "penalty_sample"})
    assert session == {"seed": 3, "system": "x", "preset": "penalty_sample"}
    assert merged(session).sampling.temperature == preset.temperature
    with pytest.raises(RunError, match="there is no preset 'fast'; choose one of greedy, penalty_sample"):
        merged({"preset": "fast"})


def test_files_of_both_kinds(tmp_path):
    expected = {"temperature": 0.5, "top_k": 7, "stop": ("a", "b = c"), "system": "Be brief; # now"}
    path = tmp_path / "settings"
    path.write_text(json.dumps(expected))
    assert read_config(path) == expected
    path.write_text(
        "# mine\n\ntemperature = 0.5\ntop-k=7\nstop = a\n; and\nstop = b = c\n  system =  Be brief; # now \n"
    )
    assert read_config(path) == expected
    path.write_text("")
    assert read_config(path) == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"temperatur": 1}', "settings: there is no setting 'temperatur'; did you mean temperature?"),
        ('{"xyzzy": 1}', "there is no setting 'xyzzy'; there are preset, max_new_tokens, "),
        ('{"temperature": "1"}', 'temperature must be a number, not "1"'),
        ('{"top_k": 1.5}', "top_k must be a whole number, not 1.5"),
        ('{"top_k": true}', "top_k must be a whole number, not true"),
        ('{"stop": [1]}', r"stop must be a text or a list of texts, not \[1\]"),
        ('{"system": null}', "system must be a text, not null"),
        ('{"top_k": 1', "settings is no JSON"),
        ("top_k = 1\ntopk = 2", "settings:2: there is no setting 'topk'; did you mean top_k?"),
        ("top_k = many", "settings:1: top_k must be a whole number, not 'many'"),
        ("top_k", "settings:1: 'top_k' must be NAME=VALUE, such as temperature=0.7"),
        ("top_k = 1\ntop-k = 1", "settings:2: top_k is set a second time"),
        ("[section]", "must be NAME=VALUE"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    path = tmp_path / "settings"
    path.write_text(text)
    with pytest.raises(RunError, match=message) as refused:
        read_config(path)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RunError, match="--config .*none cannot be read .No such file"):
        read_config(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RunError, match="cannot be read"):
        read_config(tmp_path / "bytes")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"temperature": float("nan")}, "temperature nan is out of range"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 is out of range; it must be at least 1"),
        ({"template": "vicuna"}, "there is no chat template 'vicuna'; choose one of vicuna-v1.1"),
        ({"stop": ["a", ""]}, "a stop text is empty"),
        ({"logit_bias": {"5": 101}}, "logit_bias 101 of token 5 is out of range; it must be from -100 .never. to 100"),
        ({"logit_bias": {"-5": 1}}, "logit_bias -5: 1 is no token id and number"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias nan of token 5 is out of range"),
        ({"logit_bias": "5:1,6"}, "logit_bias 6:  is no token id and number"),
        ({"logit_bias": {"5": [1]}}, "logit_bias 5: .1. is no token id and number"),
        ({"logit_bias": "5:1,05:2"}, "logit_bias names token 5 twice"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias has 1025 entries, at most 1024 are taken"),
    ],
)
def test_what_is_out_of_range_is_refused(values, message):
    with pytest.raises(RunError, match=message):
        merged(layer(values, "here"))


def test_the_command_line_takes_all_of_it(tmp_path):
    path = tmp_path / "settings"
    path.write_text("temperature = 0.5\nmin_p = 0.2\n")
    given = ["--config", str(path), "--preset", "penalty_sample", "--min-p", "0.1", "--stop", "a", "--stop", "b"]
    given += ["--presence-penalty", "0.5", "--frequency-penalty", "-0.5", "--template", "qwen", "--system", "Hi"]
    given += ["--logit-bias", "7:2.5,5:-100"]
    for command in (["chat", "p"], ["run", "p", "--prompt", "x"]):
        settings = merged(*layers_of(build_parser().parse_args([*command, *given])))
        assert settings.stop == ("a", "b") and (settings.template, settings.system) == ("qwen", "Hi")
        assert settings.sampling == Sampling(0.7, 50, 0.9, 1.1, 64, 0, 0.1, 0.5, -0.5, 5, ((5, -100.0), (7, 2.5)))
        assert merged(*layers_of(build_parser().parse_args(command))) == Settings()


def test_what_is_shown_can_be_set():
    settings = merged(
        pair("temperature = 0.7", "here"),
        pair("system=a = b", "here"),
        {"stop": ("x y", "z")},
        layer({"logit_bias": {"5": -100, "7": 0.5}}, "here"),
    )
    lines = shown(settings).splitlines()
    assert "temperature=0.7" in lines and "system=a = b" in lines and "stop='x y' 'z'" in lines
    assert "logit_bias=5:-100,7:0.5" in lines
    assert merged(*(pair(line, "here") for line in lines if not line.startswith("stop="))).sampling == settings.sampling
