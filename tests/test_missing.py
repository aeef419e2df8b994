"""Nothing is skipped without the name of what is missing; few tests may be tried again."""

import re
from pathlib import Path

import pytest

from tests import missing
from tests.again import MOST, check_again


def test_who_skips_names_what_is_missing():
    for path in Path(__file__).parent.rglob("*.py"):
        if path not in (Path(__file__), Path(missing.__file__)):
            assert not re.search(r"pytest\.skip\(|mark\.skip|importorskip|xfail", path.read_text()), path


def test_what_must_be_here(monkeypatch):
    monkeypatch.delenv("MPSPLIT_REQUIRE", raising=False)
    monkeypatch.setitem(missing.THINGS, "gloo", missing.Thing("gloo", lambda: False, "install it"))
    missing.check_required()
    monkeypatch.setenv("MPSPLIT_REQUIRE", "gloo")
    with pytest.raises(pytest.UsageError, match="gloo is not here; install it"):
        missing.check_required()
    monkeypatch.setenv("MPSPLIT_REQUIRE", "gluu")
    with pytest.raises(pytest.UsageError, match="lists gluu; it may list chromium, compilers, gloo"):
        missing.check_required()


def test_what_may_be_tried_again():
    check_again(["a"], ["a"])
    with pytest.raises(pytest.UsageError, match="not all of them look at the clock: a, b"):
        check_again(["a", "b"], ["a"])
    many = [str(i) for i in range(MOST + 1)]
    with pytest.raises(pytest.UsageError, match="3 failed, more than 2"):
        check_again(many, many)
