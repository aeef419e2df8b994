"""Each call that a save of a server makes to a disk is refused once, on rank 0 and on the one that
follows: the answer is right and says so, and the next one is kept."""

import itertools
import shutil

import pytest

from tests.missing import needs
from tests.models import EXAMPLE
from tests.runtime.kept.disk_faults import Faults, library
from tests.serve.started_ranks import serving_ranks


@pytest.fixture
def refusing(package_of, tmp_path):
    """A server over a package of its own, and the faults of its ranks."""
    package = shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path / "package")
    control = tmp_path / "control"
    control.write_bytes(bytes(4096))
    with serving_ranks(package, tmp_path / "meet") as start:
        served = start("front", LD_PRELOAD=str(library(tmp_path)), MPSPLIT_FAULTS=str(control))
        yield served, [Faults(control, rank) for rank in range(2)]


@needs("the engine")
def test_each_call_that_a_disk_refuses_is_told_and_ends_nothing(refusing):
    served, ranks = refusing
    for rank, faults in enumerate(ranks):
        refused = told = 0
        for call in itertools.count(1):
            session = {"session_id": f"rank-{rank}-{call}"}
            faults.arm(call)
            first = served.answer(**session)["usage"]["mpsplit"]
            fired = faults.fired
            faults.arm(0)
            again = served.answer(**session)["usage"]["mpsplit"]
            assert again["saved"] is True, (rank, call, first, again)
            served.as_before()
            if not fired:
                assert first["saved"] is True
                break
            refused += 1
            told += isinstance(first["saved"], str) and f"rank {rank}" in first["saved"]
            # what says that it was saved is there
            assert first["saved"] is not True or "hit" in again["kept"], (rank, call, first, again)
        # a save: mkdir, open, head, pages, checksum, fsync of the file and of its folder
        assert refused >= (20 if rank == 0 else 7) and told, (rank, refused, told)
