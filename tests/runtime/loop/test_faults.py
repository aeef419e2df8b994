"""Every call that the loop makes raises once, at its first, a middle and its last time: what is
left then is as faults.py says.

SEAMS names the calls, and what a failure there ends. A test holds the table to the classes: a new
method needs a row.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.account.account import CountedEngine
from mpsplit.runtime.account.ledger import Ledger
from mpsplit.runtime.choose import sampling
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.choosing import Choice
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.choose.tilt import Tilt
from mpsplit.runtime.engine.pages import PAGE, Pages
from mpsplit.runtime.kept.cache_on_disk import CacheOnDisk
from mpsplit.runtime.loop import token_loop
from mpsplit.runtime.loop.faults import OwnFault
from mpsplit.runtime.loop.follow import follow
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.live_request import LiveRequest
from mpsplit.runtime.loop.loop_protocol import Ending, Request
from mpsplit.runtime.loop.orders import Orders
from mpsplit.runtime.loop.token_loop import TokenLoop
from mpsplit.runtime.loop.waiting_queue import WaitingQueue
from mpsplit.runtime.talk.text import Stream
from tests.loops import Rows, Threads, Transcript

ONE, ALL, NOBODY, EITHER = {"one request"}, {"all ranks"}, {"nobody"}, {"one request", "all ranks"}


class Evens:
    """A grammar of even tokens."""

    def allowed(self):
        return bits_of(np.arange(131) % 2 == 0)

    def accept(self, token):
        assert token % 2 == 0


class Heard(Transcript):
    """A listener that leaves after so many pieces."""

    def __init__(self, until=1000):
        super().__init__()
        self.until, self.ticket = until, None

    def hear(self, said):
        self(said)
        if len(self.pieces) == self.until:
            self.ticket.cancel()


class Fault(Exception):
    """No message for people, and no kind that anybody expects."""


class Mail(Threads):
    """Whose peers hear that a rank has failed, as they do over every transport."""

    def recv(self, x, peer):
        letters = self.mail[peer, self.rank]
        sent = letters.get(timeout=20)
        if isinstance(sent, Exception):
            letters.put(sent)
            raise RunError(f"rank {peer} is gone")
        assert (sent.dtype, sent.shape) == (x.dtype, x.shape)
        x[:] = sent

    def die(self):
        for peer in range(self.size):
            self.mail[self.rank, peer].put(Fault())


UNUSED = None  # not called here, or only where all ends anyway
SEAMS = {
    Evens: {"allowed": ONE, "accept": ONE},
    Choice: {"choose": ONE, "from_all": UNUSED},
    Tilt: {"changes": ONE},
    Stream: {"push": ONE, "take": ONE, "finish": ONE},
    Heard: {"hear": ONE},
    LiveRequest: {
        **dict.fromkeys(("asks", "choose", "take", "stop", "end"), ONE),
        **{"begin": ALL, "account": NOBODY, "cancel": UNUSED, "fail": UNUSED},
    },
    CacheOnDisk: {"warm": ONE, "save": ONE, "turn": ALL, "settle": UNUSED, "check": UNUSED, "keep_within": UNUSED},
    WaitingQueue: {
        **dict.fromkeys(("first", "take", "take_cancelled"), ALL),
        **{"put_back": ONE, "add": UNUSED, "remove": UNUSED, "take_all": UNUSED},
    },
    Pages: {
        "begin": ALL,
        "grow": ONE,
        "filled": ONE,
        "release": EITHER,
        "missing": EITHER,
        "add_up": UNUSED,
        "forget": UNUSED,
    },  # fmt: skip
    Ledger: {"add": NOBODY, "rows": UNUSED},
    Ranks: {
        # before an order is begun; what is in it stands below
        **{"step": ALL, "report": EITHER, "place": ONE, "tilt": ONE, "mask": ONE, "more": ONE},
        **dict.fromkeys(("reserve", "save", "saved", "load", "sweep", "end", "forget"), UNUSED),
    },
    CountedEngine: {"batch": ALL, "report": ALL},
    Orders: {"give": ALL, "take": ALL},
    Rows: {"batch": ALL, "place": ALL, "step": ALL, "reserve": UNUSED},
    Mail: {
        **dict.fromkeys(("send", "recv", "broadcast", "tell", "listen", "all_gather"), ALL),
        "wait": UNUSED,
    },
}
ON_BOTH = (CountedEngine, Rows, Mail)
ON_FOLLOWER = {(Orders, "take"), (Mail, "listen")}
ON_LEAD = {(Mail, "tell")}
CALLS = [
    (seam, name, follower)
    for seam, names in SEAMS.items()
    for name, ends in names.items()
    for follower in (False, True)
    if ends and follower in ({False, True} if seam in ON_BOTH else {(seam, name) in ON_FOLLOWER})
    if not (follower and (seam, name) in ON_LEAD or not follower and (seam, name) in ON_FOLLOWER)
]


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.__name__)
def test_the_table_has_every_method(seam):
    own = {name for name, what in vars(seam).items() if isinstance(what, FunctionType | classmethod)}
    public = {name for name in own if not name.startswith("_")}
    if seam in (Choice, Stream, Heard, Rows, Mail):  # their other methods are for tests, or within
        public &= set(SEAMS[seam])
    assert public <= set(SEAMS[seam])


class Injector:
    """Counts the calls of a method in the threads of rank 0, or in those of the follower; one of
    them raises."""

    def __init__(self, monkeypatch, seam, name, follower, at=None):
        self.calls, self.raised = 0, False
        inner = getattr(seam, name)
        bound = isinstance(vars(seam).get(name), classmethod)
        main = threading.current_thread()

        def call(*arguments, **named):
            if follower is (threading.current_thread() is not main):
                self.calls += 1
                if self.calls == at:
                    self.raised = True
                    raise Fault(f"{name} fails")
            return inner(*arguments, **named)

        monkeypatch.setattr(seam, name, staticmethod(call) if bound else call)


GREEDY = Request((1, 2, 3), 8, ignore_eos=True)
REQUESTS = [
    Request(tuple(range(PAGE + 3)), 12, Sampling(1.0, top_p=0.8, seed=3), ignore_eos=True, warm="prefixes/p"),
    Request((5, 6), 10, grammar=Evens, ignore_eos=True, saves="sessions/s"),
    Request((7,) * 30, 40, Sampling(0.9, 7, 0.9, 1.3, seed=4), ignore_eos=True),
    replace(GREEDY, max_new_tokens=40),
]
LEAVES = [1000, 1000, 1000, 3]  # after so many pieces


@contextmanager
def ranks(text, follower_ends=None):
    """A loop over two ranks with a small cache; `follower_ends` hears how the other rank ended."""
    comms = Mail.world(2)
    engines = [Rows(rank, 2) for rank in range(2)]

    def obey():
        try:
            follow(engines[1], comms[1])
        except Exception as wrong:
            comms[1].die()
            if follower_ends is not None:
                follower_ends.append(wrong)

    other = threading.Thread(target=obey)
    other.start()
    loop = TokenLoop(engines[0], comms[0], text, chunk=16, most=3, package=Path("no package"))
    loop.pages = Pages(4)  # the last that came makes room, and goes on later
    try:
        yield loop, engines
        if loop.ranks.in_step:
            loop.end()
    finally:
        comms[0].die()
        other.join(20)
        assert not other.is_alive()


def asked(loop):
    """All requests, one of which waits and is cancelled at once."""
    heard = [Heard(until) for until in LEAVES]
    for request, listener in zip(REQUESTS, heard, strict=True):
        listener.ticket = loop.submit(request, listener.hear)
    gone = Heard()
    loop.submit(GREEDY, gone.hear).cancel()
    return [*heard, gone]


def worked(loop):
    """What ended all, where anything did."""
    until = threading.Event()
    until.set()
    try:
        loop.work(until)
    except Fault as wrong:
        return wrong
    except RunError as wrong:
        return wrong
    return None


@pytest.fixture
def scene(monkeypatch):
    """Everything that the loop can call is called."""
    monkeypatch.setattr(sampling, "NUCLEUS", 3)  # so that top-p asks again
    monkeypatch.setattr(token_loop, "REPORTED", 1000)  # or the clock adds calls
    monkeypatch.setattr(CacheOnDisk, "check", lambda self: None)
    monkeypatch.setattr(CacheOnDisk, "turn", lambda self: None)
    monkeypatch.setattr(CacheOnDisk, "settle", lambda self: None)
    monkeypatch.setattr(CacheOnDisk, "warm", lambda self, *_: {})
    monkeypatch.setattr(CacheOnDisk, "save", lambda self, save: (save.when_read(), save.when_ended("")))
    return monkeypatch


@pytest.fixture(scope="module")
def alone(text):
    """The answers, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheOnDisk, "check", lambda self: None)
        loop = TokenLoop(Rows(0, 1), Alone(), text)
        plain = [replace(request, warm="", saves="") for request in [*REQUESTS, GREEDY]]
        return [loop.generate(request).token_ids for request in plain]


def test_without_a_fault_all_is_called(scene, text, alone):
    counters = {call: Injector(scene, *call) for call in CALLS}
    with ranks(text) as (loop, _):
        heard = asked(loop)
        assert worked(loop) is None
    assert [each.ends[0].token_ids for each in heard[:3]] == alone[:3]
    assert [call for call, counter in counters.items() if not counter.calls] == []


def outcome(loop, heard, failed):
    """What the fault ended; every request has heard of its end, and once."""
    assert all(len(each.ends) == 1 for each in heard)
    unhappy = [each.ends[0] for each in heard if isinstance(each.ends[0], Exception)]
    if failed:
        assert unhappy and all("the ranks stopped: " in str(wrong) for wrong in unhappy if not own(wrong))
        with pytest.raises(Ending):
            loop.submit(GREEDY, print)
        return "all ranks"
    assert len(unhappy) < 2 and all(map(own, unhappy)), unhappy
    return "one request" if unhappy else "nobody"


def own(wrong):
    return isinstance(wrong, OwnFault)


def whole(loop):
    """Nothing is lost: pages, places, the queue."""
    assert loop.pages.used == 0 and loop.pages.add_up([]) and not loop.running and not len(loop._waiting)


def name_of(part):
    return {False: "rank0", True: "follower"}.get(part) or getattr(part, "__name__", part)


@pytest.mark.parametrize("seam, name, follower", CALLS, ids=name_of)
def test_each_call_raises_once(scene, text, alone, seam, name, follower):
    with ranks(text) as (loop, _), scene.context() as patch:
        counter = Injector(patch, seam, name, follower)
        asked(loop)
        worked(loop)
    # the last call of a follower is in a report of which all have their part
    for at in sorted({1, counter.calls // 2, counter.calls * (not follower)} - {0}):
        with scene.context() as patch:
            injector, ended = Injector(patch, seam, name, follower, at), []
            with suppress(Fault, RunError), ranks(text, ended) as (loop, engines):
                heard = asked(loop)
                failed = worked(loop)
                assert injector.raised, (at, injector.calls, counter.calls)
                found = outcome(loop, heard, failed)
                assert found in SEAMS[seam][name], (at, failed)
                if found != "all ranks":
                    for listener, tokens in zip(heard[:3], alone, strict=False):
                        assert own(listener.ends[0]) or listener.tokens == tokens
                    whole(loop)
                    loop._ending = False
                    assert loop.generate(GREEDY).token_ids == alone[-1]
                    assert engines[0].steps == engines[1].steps
            assert [str(wrong) for wrong in ended] in ([], [f"{name} fails"], ["rank 0 is gone"])
