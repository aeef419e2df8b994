"""What another rank says is looked at before it is used: one of another version gives one line."""

import pytest

from mpsplit.comm import Alone
from mpsplit.comm.json_wire import packed, unpacked
from mpsplit.errors import RunError
from mpsplit.export.convert import NEED, _files_of_a_rank, _schedule_of_a_rank
from mpsplit.export.package_texts import _shared_of_rank_0
from mpsplit.measure.bench import BenchRound
from mpsplit.measure.probe_links import _pairs_of_a_rank
from mpsplit.package.agreement import Agreement
from mpsplit.package.json_fields import flag, whole
from mpsplit.package.manifest import File, Manifest
from mpsplit.package.together.exchanged import by_rank, exchanged, of_rank_0, optional, plain
from mpsplit.plan.cluster_json import device_from_json, sums_from_json


class Saying(Alone):
    """Ranks that say what they are told to."""

    def __init__(self, *values):
        self.values, self.size = list(values), len(values)

    def exchange(self, value):
        return self.values


def test_values_come_in_order():
    assert exchanged(Saying(1, 2), 1, plain(whole(0, 9))) == [1, 2]
    assert exchanged(Saying(None, 2), None, optional(plain(whole(0, 9)))) == [None, 2]
    assert of_rank_0(Saying(True, None), True, plain(flag)) is True
    assert by_rank(Saying({"1": 5, "0": 4}), {}, plain(whole(0, 9))) == [4, 5]
    assert by_rank(Saying({"1": 5}, {"0": 4}), {}, plain(whole(0, 9))) == [4, 5]
    with pytest.raises(RunError, match="ranks 0, 2 spoke, and not all"):
        by_rank(Saying({"0": 5}, {"2": 4}), {}, plain(whole(0, 9)))


FILE = vars(File("rank-0/model.param", 3, "0" * 64))


@pytest.mark.parametrize(
    "read, wrong",
    [
        (plain(flag), "yes"),
        (plain(NEED), {"host": "a"}),
        (_schedule_of_a_rank, [["all_reduce"]]),
        (_schedule_of_a_rank, {"calls": []}),
        (_files_of_a_rank, [FILE | {"path": "../../etc/passwd"}]),
        (_files_of_a_rank, [FILE | {"mode": 7}]),
        (_shared_of_rank_0, {"tokenizer.json": 7}),
        (_shared_of_rank_0, {"/etc/passwd": "AA=="}),
        (BenchRound.from_json, {"decode": 1.0}),
        (BenchRound.from_json, BenchRound({7: 1.0}).to_json() | {"more": 1}),
        (_pairs_of_a_rank, [[0, 1, 4]]),
        (_pairs_of_a_rank, [[0, 1, 4, [None]]]),
        (device_from_json, {"name": "a"}),
        (device_from_json, None),
        (lambda data: sums_from_json(data, 2), [{"ranks": 2}]),
        (Agreement.from_json, {"engine": "native"}),
        (Manifest.of_a_rank, {"format_version": 3}),
    ],
)
def test_what_cannot_be_read_names_the_rank(read, wrong):
    with pytest.raises(RunError, match="^rank 0 sent what this rank cannot read .*; install the same mpsplit"):
        exchanged(Saying(wrong), None, read)
    with pytest.raises(RunError, match="^rank 0 sent"):
        by_rank(Saying({"0": wrong}), {}, read)


def test_what_is_no_json_at_all():
    with pytest.raises(RunError, match="rank 3 sent what is no JSON; install the same mpsplit"):
        unpacked(packed("text")[:-1], 3)


def test_a_round_of_a_bench_comes_back_as_it_was():
    done = BenchRound({7: 0.1, 60: 1 / 3}, 0.25, 1e-9, 0.0, 12345678901, 3e10)
    assert unpacked(packed(done.to_json()), 0) == done.to_json()
    assert BenchRound.from_json(done.to_json()) == done
