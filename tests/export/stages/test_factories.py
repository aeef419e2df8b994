"""Models that a function of the user's builds, and graphs that dynamo breaks on."""

import pytest

from tests.running import mpsplit, refused

HERE = "tests.export.stages.factories"


@pytest.mark.seconds(200)
def test_a_skip_travels_over_ranks_and_two_outputs_come_out(tmp_path):
    table = mpsplit("stages", f"{HERE}:unet", "--stages", "down,deep,last")
    assert "Unet: 4 stages" in table
    package = tmp_path / "unet"
    mpsplit("partition", f"{HERE}:unet", "--stages", "down,deep,last", "--ranks", 3, "--serial", "--out", package)
    mpsplit("convert", package, "--serial")
    said = mpsplit("verify", package, f"{HERE}:unet")
    assert "the same over" in said and "mask at most" in said and "deep at most" in said


@pytest.mark.parametrize(
    "name, message",
    [
        ("branches", "dynamo cannot capture Branches whole: Data-dependent branching (stages/factories.py:"),
        ("nothing", "must give a module and a dict of example tensors"),
        ("fails", "raised OSError: no such weights"),
        ("none", "has no function none"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_place_and_reason(name, message):
    assert message in refused("stages", f"{HERE}:{name}")


def test_a_module_that_is_not_there():
    assert "no_such_module cannot be imported" in refused("stages", "no_such_module:make")
