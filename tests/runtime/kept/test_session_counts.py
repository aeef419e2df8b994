"""Which sessions have to go, without a disk."""

from mpsplit.runtime.kept.session_counts import KeptLimits, KeptSession, SessionCounts


def counts(**limits):
    found = SessionCounts(KeptLimits(**{"sessions": 3, "bytes": 100, "seconds": 60} | limits))
    found.fill({f"s/a/{n}": KeptSession(10, used) for n, used in ((1, 30), (2, 10), (3, 20))})
    found.put("s/b/1", 90, 40)
    return found


def test_the_longest_unused_of_the_same_owner_go():
    found = counts()
    assert found.to_give_up("s/a/4", 10) == ["s/a/2"]
    found.use("s/a/2", 50)
    assert found.to_give_up("s/a/4", 10) == ["s/a/3"]
    assert found.to_give_up("s/a/3", 10) == []  # it takes its own place
    assert found.to_give_up("s/a/3", 85) == ["s/a/1"]
    assert found.to_give_up("s/a/4", 100) == ["s/a/3", "s/a/1", "s/a/2"]
    assert found.to_give_up("s/b/2", 11) == ["s/b/1"] and found.to_give_up("s/c/1", 100) == []
    found.drop("s/a/3")
    assert found.to_give_up("s/a/4", 10) == []


def test_too_old_is_what_nobody_used_for_so_long():
    found = counts()
    assert found.too_old(70) == [] and found.too_old(81) == ["s/a/2", "s/a/3"]
    found.use("s/a/2", 80)
    assert found.too_old(81) == ["s/a/3"]
