"""What steps cost: what is counted on each link and for each kind of layer, over real packages and
real messages, and how it adds up."""

import dataclasses
import time

import numpy as np
import pytest

from mpsplit.comm.link_counts import (
    BYTES,
    COLUMNS,
    LENGTHS,
    MESSAGES,
    SHORTEST,
    WAITED,
    WAITS,
    links_of,
    nothing,
    quantile,
)
from mpsplit.runtime.account.account import Account, CountedEngine
from mpsplit.runtime.account.account_tables import length, text, threads_text
from mpsplit.runtime.account.ledger import Ledger
from mpsplit.runtime.account.straggler import straggler
from mpsplit.runtime.engine.engine_protocol import Span
from mpsplit.runtime.engine.layer_kinds import BETWEEN, COMPUTING, KINDS
from mpsplit.runtime.load import load_engine, load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits
from tests.loops import lead
from tests.missing import need

LATE = 0.004  # seconds a step
REQUEST = Request(tuple(range(40)), 12, ignore_eos=True)


def account(ranks=2, waited=0, token=0, **numbers) -> Account:
    passed = nothing(ranks)
    passed[-1, [BYTES, MESSAGES, WAITED, WAITS + 5]] = 8, 1, waited, 1
    return Account(token=token, kinds=np.arange(len(KINDS)), passed=passed, **numbers)


def test_accounts_add_up_and_go_over_the_wire():
    one, other = account(sent=3, peak_rss=7, prompt=1), account(sent=4, peak_rss=5, token=2)
    both = Account.unpack((one + other).pack())
    assert (both.sent, both.peak_rss, both.prompt, both.token) == (7, 7, 1, 2)
    assert both.kinds.tolist() == [2 * i for i in range(len(KINDS))]
    assert both.passed[-1, [BYTES, WAITS + 5]].tolist() == [16, 2] and not both.passed[0].any()


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_quantiles_are_right_to_a_fifth(share):
    waits = np.random.default_rng(3).lognormal(np.log(40e-6), 1.5, 4000)
    lengths = np.where(waits < SHORTEST, 0, 1 + (2 * np.log2(waits / SHORTEST)).astype(int)).clip(max=LENGTHS - 1)
    found = quantile(np.bincount(lengths, minlength=LENGTHS), share)
    assert found == pytest.approx(np.quantile(waits, share), rel=0.2)
    assert quantile(np.zeros(LENGTHS, int), share) == 0


def test_the_straggler_is_the_one_at_the_root_of_the_waits():
    def waiting(matrix):
        accounts = [account(len(matrix), token=1_000_000) for _ in matrix]
        for spent, row in zip(accounts, matrix, strict=True):
            spent.passed[:, WAITED] = row
        return straggler(accounts)

    # 3 is late: 1 and 2 wait for it, and so 0 waits for 1
    found = waiting([[0, 400_000, 0, 0], [0, 0, 0, 400_000], [0, 0, 0, 400_000], [0, 0, 0, 0]])
    assert found.rank == 3 and found.share == pytest.approx(0.8) and found.seconds == pytest.approx(800e-6)
    # each for the other: that is what talking takes
    assert waiting([[0, 300_000], [310_000, 0]]) is None
    assert straggler([account(1, token=5)]) is None and straggler([]) is None


def test_tables_say_it():
    written = text([account(token=1_000_000), account(token=1_000_000, waited=900_000)])
    for part in ("rank 0", "linear", "all-reduce (with waiting)", "0 to 1", "p99"):
        assert part in written
    assert "no rank makes the others wait" in written
    assert "link" not in text([account(1)]) and text([Account()]) == ""
    assert [length(s) for s in (0, 2.54e-6, 862e-6, 0.0123, 3)] == ["0 us", "2.5 us", "860 us", "12 ms", "3 s"]


def test_what_is_said_of_threads_without_cores():
    ms = 1_000_000
    quiet = account(work_shared=100 * ms, work_waited=1 * ms)
    short = account(work_shared=50 * ms, work_waited=31 * ms, work_alone=50 * ms)
    assert text([quiet]) == text([account()]) and threads_text([]) == ""
    said = threads_text([quiet, short])
    assert said.startswith("the threads of rank 1 waited 31% of the time for each other") and "alone for 50%" in said
    assert "--threads 1" in said and said in " ".join(text([quiet, short]).split())
    assert Account.unpack((quiet + short).pack()).threads_short == pytest.approx(82 / 200)
    assert short.to_json(0)["work_waited"] == 31 * ms


def test_a_ledger_sums_all_and_shows_what_is_of_late(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ledger = Ledger([0, 0], ["a", "b"])
    assert ledger.total == () and [row["busy"] for row in ledger.rows()] == [0, 0]
    for _ in range(3):
        now[0] += 4.0
        ledger.add((account(token=10**9), account(token=10**9, waited=8 * 10**8)), rows=40)
    assert sum(spent.token for spent in ledger.total) == 6 * 10**9
    rows = ledger.rows()
    assert [row["busy"] for row in rows] == [0.25, 0.25] and rows[0][
        "tok_s"
    ] == 10  # the first of three is too long ago
    assert rows[0]["wait_p50_s"] > 0 and rows[0].keys() == rows[1].keys()


class LateRank:
    """Another engine, whose rank takes its time before each step."""

    def __init__(self, engine, seconds):
        self.engine, self.late = engine, seconds

    def batch(self, tokens, parts, every_row=False):
        time.sleep(self.late)
        return self.engine.batch(tokens, parts, every_row)

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.mark.mpi
@pytest.mark.parametrize("index", range(2))
def test_layers_and_links_of_a_request(world, package_of, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    need("the engine")
    loop = load_loop(package_of("llama", *cuts[index]), world, chunk=9, engine="native")
    ends = []
    lead(loop, world, lambda: ends.append(loop.generate(REQUEST)))
    assert len(ends) == (world.rank == 0)
    for stats in [end.stats for end in ends]:
        assert len(stats.accounts) == world.size
        sent = sum(link.bytes for rank, spent in enumerate(stats.accounts) for link in spent.links(rank))
        assert (sent > 0) == (world.size > 1)
        for rank, spent in enumerate(stats.accounts):
            seconds, links = spent.seconds(), spent.links(rank)
            assert {"linear", "attention", "norm"} <= seconds.keys()
            assert (world.size > 1) == any(kind in seconds for kind in BETWEEN)
            assert sum(seconds[kind] for kind in COMPUTING if kind in seconds) * 1e9 <= spent.prompt + spent.token
            assert all(link.peer != rank and link.wait_p50_s <= link.wait_p99_s for link in links)
            fields = spent.to_json(rank)
            assert fields["links"] == [dataclasses.asdict(link) for link in links] and fields["sent"] == spent.sent
            if (
                cuts[index] == (1, world.size) and world.size > 1
            ):  # stages hand on to the next, and the last one answers
                assert {"send", "recv"} & seconds.keys() and {rank + 1} - {world.size} <= {link.peer for link in links}


@pytest.mark.mpi
@pytest.mark.most(2)
def test_a_late_rank_is_named(world, package_of):
    need("the engine")
    if world.size == 1:
        return  # nobody waits for it
    engine = load_engine(package_of("llama", world.size, 1), world, "native")
    for late in range(world.size):
        counted = CountedEngine(LateRank(engine, LATE if world.rank == late else 0), world)
        for position in range(20):
            if position == 0:
                engine.place(0, 0, range(engine.manifest.facts.context // 32))
            counted.batch([3], [Span(0, position, 1)])
        accounts = counted.report()
        found = straggler(accounts)
        assert found.rank == late and found.seconds > 20 * LATE / 2
        (link,) = links_of(1 - late, accounts[1 - late].passed)
        assert link.peer == late and link.wait_p99_s > LATE / 2 > link.wait_p50_s
        assert accounts[0].passed.shape == (world.size, COLUMNS)
