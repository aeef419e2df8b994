"""What Ray is asked for, and what is refused before it would wait for ever; a supervisor without
Ray, and the files by which ranks meet."""

import os
import sys
import time
from dataclasses import replace

import pytest

from mpsplit import __version__
from mpsplit.errors import ClusterError, LaunchError
from mpsplit.launchers.meeting_copies import Copies
from mpsplit.launchers.rank_actor import END, OUT, RankActor
from mpsplit.launchers.rank_places import GIB, TOUCH, Need, bundles, mark_of
from mpsplit.launchers.ray_nodes import Node, named_after, nodes_of, usable
from mpsplit.launchers.ray_session import load
from mpsplit.plan.cluster import described

HEAD = Node("a1", "head", "host", 2, 4 * GIB, frozenset({"node:10.0.0.1", "node:__internal_head__"}))
BOARD = Node("b2", "board", "other", 4, 8 * GIB, frozenset({"node:10.0.0.2"}))
NODES = [BOARD, HEAD]


def test_nodes_as_ray_lists_them():
    def entry(id, alive=True, name="10.0.0.1", **resources):
        has = {"CPU": 2.0, "memory": 1e9, "object_store_memory": 1, **resources}
        return {
            "NodeID": id, "Alive": alive, "NodeName": name, "NodeManagerAddress": "10.0.0.1",
            "NodeManagerHostname": "host", "Resources": has,
        }  # fmt: skip

    nodes = nodes_of(
        [entry("aaaaaaaa"), entry("bbbbbbbb", board=1.0), entry("c", False), entry("d", name="spare", CPU=0)]
    )
    assert [node.name for node in nodes] == ["10.0.0.1/aaaaaa", "10.0.0.1/bbbbbb", "spare"]
    assert nodes[1] == Node("bbbbbbbb", "10.0.0.1/bbbbbb", "host", 2, 10**9, frozenset({"board"}))
    assert [node.cpus for node in usable(nodes)] == [2, 2]
    with pytest.raises(ClusterError, match="none of the 1 nodes"):
        usable(nodes[2:])


def test_a_cluster_of_nodes():
    cluster = named_after(NODES, described([node.memory for node in NODES]))
    assert [(d.name, d.host, d.threads, d.memory_bytes) for d in cluster.devices] == [
        ("board", "board", 4, 8 * GIB),
        ("head", "head", 2, 4 * GIB),
    ]
    assert not cluster.measured


def test_rank_0_stays_at_home_where_it_fits():
    needs = [Need(GIB), Need(GIB)]
    assert bundles(needs, NODES, "a1") == [
        {"CPU": 1, "memory": GIB, "node:10.0.0.1": TOUCH},
        {"CPU": 1, "memory": GIB},
    ]
    assert bundles([Need(5 * GIB), Need(GIB)], NODES, "a1")[0] == {"CPU": 1, "memory": 5 * GIB}
    assert bundles(needs, [HEAD], "a1") == [{"CPU": 1, "memory": GIB}] * 2  # there is nothing to choose


def test_a_plan_is_followed_where_its_machines_are_nodes():
    by_name, by_host = Need(GIB, 4, "board"), Need(GIB, 2, "host")
    assert bundles([by_name, by_host], NODES, "a1") == [
        {"CPU": 4, "memory": GIB, "node:10.0.0.2": TOUCH},
        {"CPU": 2, "memory": GIB, "node:10.0.0.1": TOUCH},
    ]
    strangers = [Need(GIB, 64, "machine-0"), Need(GIB, 64, "machine-1")]
    assert [bundle["CPU"] for bundle in bundles(strangers, NODES)] == [1, 1]
    with pytest.raises(LaunchError, match="puts rank 1 on machine-1, which is no node of Ray's cluster .board has"):
        bundles([by_name, strangers[1]], NODES)


@pytest.mark.parametrize(
    "needs, why",
    [
        ([Need(9 * GIB)], "rank 0 needs 1 CPU and 9.00 GiB of memory, no node .* has them free: board has 4 CPUs and"),
        ([Need(GIB, 5)], "rank 0 needs 5 CPUs and 1.00 GiB"),
        ([Need(GIB, 3, "board"), Need(GIB, 2, "board")], "2 ranks on board need 5 CPUs and 2.00 GiB, it has 4 CPUs"),
        ([Need(GIB)] * 7, "7 ranks need 7 CPUs and 7.00 GiB together, Ray's 2 nodes have 6 CPUs and 12.00 GiB"),
    ],
)
def test_no_room(needs, why):
    with pytest.raises(LaunchError, match=why):
        bundles(needs, NODES)


def test_a_node_that_nothing_tells_from_another():
    twin = replace(HEAD, id="c3", name="twin", marks=frozenset({"node:10.0.0.1"}))
    assert mark_of(HEAD, [HEAD, twin]) == "node:__internal_head__"
    with pytest.raises(LaunchError, match="""ray start --resources '{"twin": 1}'"""):
        mark_of(twin, [HEAD, twin])
    assert mark_of(replace(twin, marks=twin.marks | {"twin"}), [HEAD, twin]) == "twin"


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LaunchError, match=r"run `pip install 'mpsplit\[ray\]'`"):
        load()


def test_copies_tell_each_thing_once(tmp_path):
    one, other = Copies(tmp_path / "one"), Copies(tmp_path / "other")
    one.folder.mkdir()
    (one.folder / "hello-1").write_bytes(b"7 2")
    (one.folder / "hello-1.unfinished").write_bytes(b"7")
    (one.folder / "run-9").mkdir()
    news = one.news()
    assert news == {"hello-1": b"7 2", "run-9": None} and one.news() == {}
    other.take(news)
    assert (
        other.news() == {} and (other.folder / "run-9").is_dir() and (other.folder / "hello-1").read_bytes() == b"7 2"
    )
    (other.folder / "run-9" / "7").write_bytes(b"")
    assert other.news() == {"run-9/7": b""}
    (one.folder / "hello-1").write_bytes(b"8 2")
    assert one.news() == {"hello-1": b"8 2"}


def all_events(actor: RankActor) -> list:
    events, until = [], time.monotonic() + 60
    while not events or events[-1][0] != END:
        assert time.monotonic() < until
        events += actor.events()
    return events


def test_a_supervisor_tells_what_its_rank_prints_and_its_end(tmp_path):
    actor = RankActor(0, 1)
    assert actor.begin(["--version"], {}, str(tmp_path)) == ""
    events = all_events(actor)
    assert b"".join(data for kind, data in events if kind == OUT).decode() == f"mpsplit {__version__}\n"
    assert events[-1] == (END, 0)


def test_a_machine_without_the_folder(tmp_path):
    why = RankActor(0, 1).begin(["--version"], {}, str(tmp_path / "none"))
    assert (
        why == f"there is no folder {tmp_path}/none on {os.uname().nodename}; mpsplit runs at one path on all machines"
    )
