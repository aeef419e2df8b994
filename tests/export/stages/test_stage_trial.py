"""What is a package and what is not: a stage's files on the trial, each in its own folder."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.stages.compilers.stage_compiler import Compiled
from mpsplit.export.stages.stage_conversion import EXACT, INPUTS, Trial
from mpsplit.package.stages.stage_files import StageFiles

OUT, AS_IT_WAS, ROUNDED = Path("out"), Path("as-it-was"), Path("rounded")
UNPACKED = StageFiles.named("stage-00", packed=False, tables=False)
PACKED = StageFiles.named("stage-00", tables=False)


@dataclass(frozen=True)
class FakeStage:
    name: str = "middle"
    inputs: tuple[str, ...] = ("x",)
    whole: tuple[str, ...] = ()


def trial(off: dict[Path, float], needs: tuple[str, ...] = (), ends: tuple[str, ...] = ("none",)) -> Trial:
    """`off`: by folder, how far its files are from the program's 1; `needs`: the axes that must be
    kept; with those that are `ends` the process ends."""

    def try_out(pipeline, stage, folder, files, inputs, length):
        assert files.packed is None or folder == OUT
        if stage.whole == ends:
            return None
        return {"y": inputs["x"] + off[folder] + 9 * (stage.whole != needs)}

    traced = SimpleNamespace(
        pipeline=None,
        stage=FakeStage(),
        shapes={"x": None},
        example=lambda length: {"x": np.zeros(length, np.float32)},
        outputs=lambda given: {"y": given["x"] + 1},
    )
    compiler = SimpleNamespace(made_by="pnnx", lengths=lambda traced: (3, 1), ways=lambda inputs: ((), inputs))
    return Trial(traced, compiler, try_out)


def test_the_way_that_computes_the_same_is_kept():
    one = trial({OUT: 1 + EXACT / 2}, needs=("x",), ends=())
    stage, error = one.of(Compiled(UNPACKED), OUT)
    assert stage.whole == ("x",) and error == pytest.approx(EXACT / 2, rel=1e-3)
    with pytest.raises(ConvertError, match=r"stage middle: what pnnx made of it is 0\.2 of the largest number off"):
        trial({OUT: 1.2}).of(Compiled(UNPACKED), OUT)


@pytest.mark.parametrize(
    "as_it_was, rounded, packed, message",
    [
        (1.0, 1.6, 1.6 * (1 + INPUTS / 2), None),  # values of few bits may be far off, what is packed may not
        (1 + 2 * EXACT, 1.0, 1.0, "what pnnx made of it is 0.002"),
        (1.0, 1.1, 1.1 * (1 + 2 * INPUTS), r"packed, it is 0\.1 of the largest number off the same values"),
        (1.0, 1.0, float("nan"), "packed, it is inf"),
    ],
)
def test_what_was_packed_is_held_against_the_same_values_in_float32(as_it_was, rounded, packed, message):
    folders = {OUT: packed, AS_IT_WAS: as_it_was, ROUNDED: rounded}
    compiled = Compiled(PACKED, packed=1, twins=(AS_IT_WAS, ROUNDED))
    if message is None:
        stage, error = trial(folders).of(compiled, OUT)
        assert stage.whole == () and error == pytest.approx(packed - 1, rel=1e-3)
    else:
        with pytest.raises(ConvertError, match=message):
            trial(folders).of(compiled, OUT)
