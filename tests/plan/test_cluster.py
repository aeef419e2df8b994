"""Clusters: what cluster.json may say, and what is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import ClusterError
from mpsplit.plan.cluster import MESSAGES, Cluster, LinkTimes, Measured, Sum, described
from mpsplit.plan.cluster_json import from_json, load_cluster, save_cluster, to_json


def measured_cluster() -> Cluster:
    made = described([1 << 30, 2 << 30, 3 << 30], read=[1e10, 2e10])
    sums = (Sum(2, 16384, Measured(1e-5, 0.1)), Sum(3, 4, Measured(2e-5)))
    links = {(0, 1): LinkTimes.of(1e-6, 1e9), (0, 2): LinkTimes.of(2e-6, 2e9), (1, 2): LinkTimes.of(3e-6, 3e9)}
    return Cluster(made.devices, links, sums=sums, transport="mpi")


def test_a_cluster_comes_back_from_its_file(tmp_path):
    for cluster in (measured_cluster(), described([4 << 30] * 2)):
        save_cluster(cluster, tmp_path / "cluster.json")
        assert load_cluster(tmp_path / "cluster.json") == cluster


def at(data, *path):
    for step in path[:-1]:
        data = data[step]
    return data, path[-1]


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("version",), 9, "version 9, this mpsplit reads 1"),
        (("devices", 1, "read", "value"), -1, r"devices\[1\].read.value is -1; it must be above 0"),
        (("devices", 0, "memory_bytes"), 0, r"devices\[0\].memory_bytes is 0; it must be above 0"),
        (("devices", 0, "memory_bytes"), math.nan, r"devices\[0\].memory_bytes is nan"),
        (("devices", 0, "memory_bytes"), math.inf, r"devices\[0\].memory_bytes is inf"),
        (("devices", 0, "memory_bytes"), "4G", r"devices\[0\].memory_bytes is '4G', which is no number"),
        (("devices", 0, "process_bytes"), 1 << 40, "nothing is left"),
        (("devices", 0, "threads"), 0, "threads is 0"),
        (("devices", 0, "disk", "spread"), -0.1, "disk.spread is -0.1"),
        (("devices", 0, "kinds", "q4", "decode"), None, "which is no object"),
        (("devices", 0, "colour"), "red", "has colour, which nobody knows"),
        (("devices", 1, "name"), "machine-0", "the 3 devices have 2 different names"),
        (("devices",), [], "the 0 devices"),
        (("messages",), [1, 2, 3], "messages are"),
        (("links", 0, "between"), [0, 3], r"links\[0\] is between \[0, 3\]"),
        (("links", 0, "between"), [0, 0.5], r"links\[0\] is between \[0, 0.5\]"),
        (("links", 0, "between"), [1, 0], r"links\[0\] is between \[1, 0\]"),
        (("links", 0, "between"), [0, 2], r"links\[1\] is between \[0, 2\] a second time"),
        (("links", 0, "seconds", 1, "value"), -3, r"links\[0\].value is -3|links\[0\].seconds.value is -3"),
        (("sums", 0, "ranks"), 4, r"sums\[0\] is of 4 ranks, there are 3 devices"),
        (("sums", 0, "ranks"), 1, r"sums\[0\] is of 1 ranks, there are 3 devices"),
    ],
)
def test_numbers_that_cannot_be_are_named(path, value, message):
    data = json.loads(json.dumps(to_json(measured_cluster())))
    place, key = at(data, *path)
    place[key] = value
    with pytest.raises(ClusterError, match=message) as wrong:
        from_json(data, "cluster.json")
    assert "\n" not in str(wrong.value) and "mpsplit probe" in str(wrong.value)


@pytest.mark.parametrize(
    "path",
    [
        ("devices",),
        ("devices", 2, "read"),
        ("devices", 0, "kinds"),
        ("devices", 0, "attention", "prefill"),
        ("links", 1, "seconds"),
    ],
)
def test_what_is_missing_is_named(path):
    data = json.loads(json.dumps(to_json(measured_cluster())))
    place, key = at(data, *path)
    del place[key]
    with pytest.raises(ClusterError, match=rf"{key}.* is missing"):
        from_json(data)


def test_every_pair_needs_a_link():
    data = json.loads(json.dumps(to_json(measured_cluster())))
    del data["links"][1]
    with pytest.raises(ClusterError, match="there is no link between devices 0 and 2"):
        from_json(data)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ClusterError, match=r"there is no .*; make it with `mpirun \.\.\. mpsplit probe"):
        load_cluster(tmp_path / "none.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ClusterError, match="is not JSON"):
        load_cluster(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ClusterError, match="has version None"):
        load_cluster(tmp_path / "list.json")


@given(st.floats(1e-7, 1e-1), st.floats(1e6, 1e11), st.floats(0, 1e8))
def test_links_are_straight_lines(latency, bandwidth, size):
    took = LinkTimes.of(latency, bandwidth).time(size)
    assert took == pytest.approx(latency + max(size, MESSAGES[0]) / bandwidth)


def test_some_devices_in_another_order():
    cluster, turned = measured_cluster(), measured_cluster().only([2, 0])
    assert turned.devices == (cluster.devices[2], cluster.devices[0])
    assert turned.link(0, 1) == turned.link(1, 0) == cluster.link(0, 2)


def test_a_whole_host_has_what_its_ranks_have_together():
    from dataclasses import replace

    cluster = measured_cluster()
    same = replace(cluster, devices=tuple(replace(device, host="board") for device in cluster.devices))
    alone = same.whole_host("board")
    assert alone.size == 1 and alone.devices[0].threads == 3 and alone.devices[0].memory_bytes == 6 << 30
    assert alone.devices[0].read.value == 5e10 and alone.devices[0].kinds["q4"].decode.value == 5e10
