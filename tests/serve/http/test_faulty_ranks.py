"""What goes wrong between two ranks of a server costs time alone, or ends the group: the client
hears why, each rank says it in one line, and nothing is left."""

import json
import os
import re
import signal
import time

import httpx
import pytest

from tests.missing import needs
from tests.serve.started_ranks import ASK, gone_soon

LIMIT = 2  # seconds that a rank may be silent
AT = 9  # the message that meets a fault: after some tokens
RANK_1 = r"(rank 1 \(process \d+ on this host\)|rank 1)"
DIED = r"rank 0 (\(process \d+ on this host\) has died|has gone)"
LENGTH = r"rank 1 sent \d+ bytes where rank 0 expected \d+; they are not in the same collective"
UNKNOWN = "rank 0 gave order 99, which rank 1 does not know; install the same mpsplit"
SHORT = "rank 0 sent 48 bytes where rank 1 expected 56; they are not in the same collective"
MEMORY = r"MemoryError\('no memory is left on this rank'\)"
# which rank meets which fault; what the client and rank 0's line say, and rank 1's
ENDS = (
    (1, "cut_short", LENGTH, DIED),
    (1, "too_long", LENGTH, DIED),
    (1, "twice", LENGTH, DIED),
    (1, "closed", f"{RANK_1} has gone", "rank 0 "),
    (1, "raises", f"{RANK_1} ended: {MEMORY}", "MemoryError: no memory is left on this rank"),
    (0, "another_order", f"{RANK_1} ended: {UNKNOWN}", UNKNOWN),
    (0, "short_order", f"{RANK_1} ended: {SHORT}", SHORT),
)

pytestmark = [needs("gloo"), needs("the engine"), pytest.mark.clock]


def streamed(served) -> list[str]:
    with httpx.stream("POST", f"{served.address}/v1/completions", json=ASK, timeout=60) as reply:
        return [line.removeprefix("data: ") for line in reply.iter_lines() if line]


@pytest.mark.parametrize("rank, fault, first, other", ENDS, ids=[fault for _, fault, *_ in ENDS])
def test_a_fault_ends_the_group_and_says_why(serve, rank, fault, first, other):
    served = serve("nobody", fault=(rank, fault, AT), MPSPLIT_TIMEOUT=str(LIMIT))
    *pieces, last = streamed(served)
    error = json.loads(last)["error"]
    assert 0 < len(pieces) < ASK["max_tokens"] and error["type"] == "server_error"
    assert re.search(f"the answer cannot go on: the ranks stopped: {first}", error["message"]), error
    assert gone_soon(served)
    said = [child.stderr.read() for child in served.started]
    # what nobody foresaw has a traceback and a code of its own
    assert [child.returncode for child in served.started] == [2, 1 if fault == "raises" else 2], said
    assert re.fullmatch(f"mpsplit: rank 0: {first}.*\n", said[0]), said
    assert re.search(f"^mpsplit: rank 1: .*{other}.*\n$", said[1], re.S), said
    assert fault == "raises" or said[1].count("\n") == 1, said


def test_what_is_late_costs_time_alone(serve):
    """An answer that comes after half of the limit, and then a rank that is stopped for as long."""
    served = serve("nobody", fault=(1, "late", AT), MPSPLIT_TIMEOUT=str(LIMIT))
    pieces = streamed(served)
    assert len(pieces) == ASK["max_tokens"] + 1 and pieces[-1] == "[DONE]"
    served.as_before()
    served.answer()
    os.kill(served.processes["rank 1"], signal.SIGSTOP)
    time.sleep(LIMIT / 2)
    os.kill(served.processes["rank 1"], signal.SIGCONT)
    again = streamed(served)

    def texts(pieces):
        return [json.loads(piece)["choices"][0]["text"] for piece in pieces[:-1]]

    assert texts(again) == texts(pieces)
    served.as_before()
    served.answer()
