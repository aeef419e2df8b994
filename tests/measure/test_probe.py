"""The probe: its parts with sample texts and small numbers, the whole on 1, 2 and 4 ranks with a
tiny effort."""

import json
from itertools import combinations

import numpy as np
import pytest

from mpsplit.measure.probe import _bytes, probe, show
from mpsplit.measure.probe_engine import Effort, EngineProbe, Stack, difference, kinds_here
from mpsplit.measure.probe_links import FEW, group_sizes, tournament
from mpsplit.measure.probe_machine import PARTS, DiskProbe, host_names
from mpsplit.measure.probe_package import facts_of, stored_bytes, write_package
from mpsplit.plan.cluster import MESSAGES, Measured
from mpsplit.plan.cluster_json import load_cluster, save_cluster, to_json
from mpsplit.runtime.engine.memory_left import available_bytes, left_in_cgroups, meminfo
from mpsplit.runtime.engine.native_engine import NativeEngine
from mpsplit.runtime.engine.stock_engine import StockEngine
from tests.measure.efforts import TINY
from tests.missing import need


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 12, 17])
def test_a_tournament_has_every_pair_once_and_every_rank_at_most_once_a_round(size):
    rounds = tournament(size)
    assert sorted(pair for pairs in rounds for pair in pairs) == sorted(combinations(range(size), 2))
    for pairs in rounds:
        ends = [end for pair in pairs for end in pair]
        assert len(ends) == len(set(ends)) and (size > FEW or len(pairs) == 1)
    if size > FEW:
        assert len(rounds) == size - 1 + size % 2


def test_groups_grow_to_all_ranks():
    assert [group_sizes(n) for n in (1, 2, 5)] == [[], [2], [2, 3, 4, 5]]
    assert group_sizes(8) == list(range(2, 9)) and group_sizes(40) == [*range(2, 9), 16, 32, 40]


def test_a_spread_leaves_out_the_furthest_sample():
    assert Measured.of([10.0]) == Measured(10, 0)
    assert Measured.of([9.0, 10.0, 12.0]) == Measured(10, 0.1)
    assert Measured.of([10.0, 11.0, 8.0, 10.0, 90.0]) == Measured(10, 0.2)
    assert difference(3, 1) == 2 and difference(1, 3) == 0.01


def test_meminfo():
    text = "MemTotal:       24684000 kB\nMemAvailable:   2000 kB\nHugePages_Total:       0\n"
    assert meminfo(text)["MemAvailable"] == 2000 * 1024
    assert available_bytes() > 1 << 20


def test_control_groups_of_both_versions(tmp_path):
    def group(path, limit, use, droppable):
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        name = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if "memory" in path else ("memory.max", "memory.current")
        )
        for file, value in zip((*name, "memory.stat"), (limit, use, droppable), strict=True):
            (folder / file).write_text(f"{value}\n")

    group("a", "5000", "2000", "anon 7\ninactive_file 500")
    group("a/b", "max", "1000", "inactive_file 0")
    group("memory/pod", "900", "950", "total_inactive_file 20")
    assert left_in_cgroups("0::/a/b\n", tmp_path) == [3500]
    assert left_in_cgroups("5:cpu,memory:/pod\n4:pids:/pod\n", tmp_path) == [0]
    assert left_in_cgroups("0::/\n", tmp_path) == left_in_cgroups("", tmp_path) == []


def test_hosts_of_one_name_get_two():
    class Three:
        hosts = [b"vm 1", b"vm 2", b"vm 1"]

        def exchange(self, value):
            return ["vm"] * 3

    assert host_names(Three()) == ["vm", "vm#2", "vm"]


def test_the_disk_is_read_part_by_part(tmp_path):
    disk = DiskProbe(tmp_path, 80_000)
    assert disk.part * PARTS >= 80_000 - PARTS
    assert all(disk.rate() > 0 for _ in range(PARTS + 1)) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", [NativeEngine, StockEngine])
@pytest.mark.parametrize("kind", [kind for kind in kinds_here() if kind != "bf16"])
def test_a_package_of_noise_runs_in_both_engines(engine, kind):
    if engine is NativeEngine:
        need("the engine")
    stack = Stack(engine, facts_of(64, 96, 8, 4, 8, layers=2, context=32), kind, 1)
    both = stack.engine.step([1, 2, 3], 0, every_row=True)
    assert both.shape == (3, 64) and np.isfinite(both).all() and both.std() > 0.01
    stack.engine.step([1, 2], 0)
    np.testing.assert_allclose(stack.engine.step([3], 2)[0], both[2], atol=2e-3 if kind != "f32" else 1e-4)
    stack.engine.close()


@pytest.mark.parametrize("kind", [kind for kind in kinds_here() if kind not in ("bf16", "f32")])
def test_stored_bytes_are_those_of_the_file(kind, tmp_path):
    facts = facts_of(64, 96, 8, 4, 8, layers=3, context=32)
    write_package(tmp_path, facts, kind)
    # more than a head of 64 rows has
    head = stored_bytes(facts_of(64, 96, 8, 4, 8, layers=1, context=32), kind)
    assert 0 < (tmp_path / "rank-0" / "weights" / "packed.bin").stat().st_size - stored_bytes(facts, kind) < head


def test_memory_limits_the_effort():
    small = Effort().within(1 << 30)
    assert small.weights == small.read == small.cache == 64 << 20
    tiny = Effort().within(400 << 20)
    assert (tiny.hidden, tiny.mlp, tiny.heads, tiny.kv_heads) == (1024, 2816, 16, 2)
    assert Effort().within(64 << 30) == Effort()


def test_only_what_all_have_is_sampled():
    engine = EngineProbe(StockEngine, TINY, ("f32",), 1)
    assert not any(name.startswith(("q4", "bf16")) for name in engine.samples)


def test_noise_makes_no_rate_negative():
    """What lies beside the weights was measured in a busy moment, and takes longer than all of
    it."""
    engine = EngineProbe(StockEngine, TINY, ("f32",), 1)
    samples = {name: [2.0, 3.0] for name in engine.samples} | {"many layers": [50.0, 1.0], "f32 decode": [0.5, 0.5]}
    found = engine.fields_of(samples)
    rate, attention = found["kinds"]["f32"], found["attention"]
    measured = (found["layer_seconds"], found["step_seconds"], rate.decode, rate.prefill, *vars(attention).values())
    assert all(each.value > 0 and each.spread >= 0 for each in measured), found


@pytest.mark.mpi
def test_a_cluster_holds_every_rank_and_every_pair(world, shared_folder, capsys):
    cluster = probe(world, 1, shared_folder, 32, TINY)
    assert cluster.size == world.size == len({device.name for device in cluster.devices})
    assert set(cluster.links) == set(combinations(range(world.size), 2))
    assert [(s.ranks, s.size) for s in cluster.sums] == [
        (g, 4 * 32 * rows) for g in range(2, world.size + 1) for rows in (1, 16)
    ]
    assert set(cluster.devices[0].kinds) == set(kinds_here()) and cluster.measured
    assert json.dumps(to_json(cluster)) == world.exchange(json.dumps(to_json(cluster)))[0]
    if world.rank == 0:
        save_cluster(cluster, shared_folder / "cluster.json")
        # which refuses what is not positive
        assert load_cluster(shared_folder / "cluster.json") == cluster
        show(cluster)
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("memory reads", cluster.devices[-1].name))
    world.exchange(None)


def test_sizes_as_people_say_them():
    assert [_bytes(size) for size in (*MESSAGES, 32 << 10)] == ["4 B", "16 KB", "1 MB", "32 KB"]


def test_the_kernel_counts_who_is_busy():
    from mpsplit.measure.probe_machine import busy_share, cpu_ticks

    assert cpu_ticks("cpu  10 1 9 70 5 2 3 0 8 0\ncpu0 1 1 1 1") == (75, 100)
    assert 0 <= busy_share(0.05) <= 1
