"""`mpsplit top` beside a server that is no model."""

import pytest

from mpsplit.cli import main
from mpsplit.commands.top import BAR, bar
from mpsplit.export.model.tokenizer_files import copy_tokenizer
from mpsplit.runtime.talk.text import Text
from tests.models import EXAMPLE
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import served


@pytest.fixture
def text(tmp_path) -> Text:
    copy_tokenizer(EXAMPLE, tmp_path)
    return Text(tmp_path)


def test_it_shows_a_row_a_rank(text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with served(FakeLoop(text)) as (address, service):
        assert main(["top", address, "--once"]) == 0
    printed = capsys.readouterr().out
    assert "0 running, 0 waiting" in printed and printed.count("MiB") == len(service.loop.ranks_now())
    assert "rank 3 makes the others wait" in printed and "2 us, 300 us" in printed
    assert "the threads of rank 2 are short of cores for 31% of their work" in " ".join(printed.split())


def test_what_it_cannot_see(capsys, monkeypatch):
    assert main(["top", "http://127.0.0.1:9", "--once"]) == 2
    assert "cannot be seen" in capsys.readouterr().err
    assert main(["top", "--every", "0"]) == 2


@pytest.mark.parametrize("busy, wait", [(0, 0), (1, 0), (0.5, 0.5), (0.7, 0.6)])
def test_a_bar_is_as_long_as_any_other(busy, wait):
    assert len(bar(busy, wait).plain.split(" ")[0]) == BAR
