"""The solver against all plans there are, on clusters of any kind; and what it may never do."""

import itertools
import math
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.errors import PlanError
from mpsplit.export.model.named_shapes import find_shape
from mpsplit.plan.cluster import Cluster, Device, LinkTimes, Measured, Rate, described
from mpsplit.plan.cuts import one_matrix
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job, memory
from mpsplit.plan.shards import Range, Shard
from mpsplit.plan.solve.remedies import remedies
from mpsplit.plan.solve.solver import GOALS, best, fits, solve
from tests.cases import thorough
from tests.plan.solve.brute_force import JOB, brute_force


def small(layers: int, kv_heads: int) -> ModelFacts:
    return ModelFacts("LlamaForCausalLM", 128, layers, 4, kv_heads, 32, 512, 384, 64, False)


def device(i: int, memory_bytes: int, read: float, flop: float, step: float) -> Device:
    rate = Rate(Measured(read), Measured(flop))
    return Device(
        name=f"d{i}", host=f"h{i}", threads=1, memory_bytes=memory_bytes, process_bytes=1000,
        read=rate.decode, disk=Measured(1e8), layer_seconds=Measured(2e-6), step_seconds=Measured(step),
        attention=rate, kinds={"q4": rate},
    )  # fmt: skip


@st.composite
def clusters(draw, facts: ModelFacts, most: int = 3) -> Cluster:
    """Rates over a factor of 10, a link of its own for each pair, memory from far too little to
    plenty."""
    count = draw(st.integers(1, most))
    plenty = memory(facts, whole(facts), device(0, 0, 1.0, 1.0, 0.0), JOB).total
    part = draw(st.sampled_from([(1.1, 2.0), (0.2, 1.2), (0.3, 0.8), (0.4, 0.6)]))
    devices = tuple(
        device(
            i,
            int(plenty * draw(st.floats(*part))) // 4 * 4 + i,
            draw(st.floats(1e8, 1e9)),
            draw(st.floats(1e9, 1e10)),
            draw(st.floats(0, 1e-4)),
        )
        for i in range(count)
    )
    links = {
        pair: LinkTimes.of(draw(st.floats(1e-7, 3e-4)), draw(st.floats(1e7, 1e9)))
        for pair in itertools.combinations(range(count), 2)
    }
    return Cluster(devices, links)


def whole(facts: ModelFacts) -> Shard:
    rows = Range(0, facts.vocabulary)
    return Shard(
        0, 0, Range(0, facts.layers), Range(0, facts.heads), Range(0, facts.kv_heads), Range(0, facts.mlp), rows, rows
    )


def measure(solution, cluster: Cluster, goal: str) -> float:
    cost = solution.cost
    full = [m.total / cluster.devices[d].memory_bytes for m, d in zip(cost.memory, solution.devices, strict=True)]
    assert max(full) <= 1
    return {
        "token": cost.token,
        "first-token": cost.first_token,
        "throughput": 1 / cost.throughput,
        "memory": max(full),
    }[goal]


@st.composite
def cases(draw):
    facts = small(draw(st.integers(1, 8)), draw(st.sampled_from([1, 2, 4])))
    return facts, draw(clusters(facts))


@pytest.mark.parametrize("goal, examples", [("token", 300), ("first-token", 80), ("throughput", 80), ("memory", 80)])
def test_no_plan_is_better(goal, examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(cases())
    def compare(case):
        facts, cluster = case
        least = brute_force(facts, cluster, goal)
        if least == math.inf:
            assert best(facts, cluster, JOB, goal) is None
            return
        solution = solve(facts, cluster, JOB, goal)
        assert solution.exact
        assert solution.cost == price(facts, solution.plan, cluster.only(solution.devices), JOB)
        assert measure(solution, cluster, goal) == pytest.approx(least, rel=1e-9)
        if goal == "memory":
            assert solution.cost.token == pytest.approx(
                brute_force(facts, cluster, "token", least * (1 + 1e-12)), rel=1e-9
            )

    compare()


# -- what it may never do, and what anybody would expect -----------------------------------------

VICUNA = ModelFacts.from_config(find_shape("vicuna-7b").config() | {"architectures": ["LlamaForCausalLM"]})
LARGE = ModelFacts("LlamaForCausalLM", 8192, 80, 64, 8, 128, 28672, 128256, 8192, False)  # 70B
GIB = 1 << 30


def widths(solution) -> list[int]:
    return [len(stage.ranks) for stage in solution.cost.stages]


def at_speed(device: Device, factor: float, **changes) -> Device:
    def faster(rate: Rate) -> Rate:
        return Rate(Measured(rate.decode.value * factor), Measured(rate.prefill.value * factor))

    kinds = {kind: faster(rate) for kind, rate in device.kinds.items()}
    return replace(device, attention=faster(device.attention), kinds=kinds, **changes)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(st.tuples(st.integers(GIB // 2, 6 * GIB), st.floats(3e9, 3e10)), min_size=1, max_size=7),
    st.sampled_from(["q4", "q8"]),
    st.floats(1e-6, 3e-3),
)
def test_no_device_is_overfilled(machines, kind, latency):
    memories, reads = zip(*machines, strict=True)
    cluster, job = described(memories, reads, latency=latency), Job(kind=kind)
    for goal in GOALS:
        if solution := best(VICUNA, cluster, job, goal):
            chosen = cluster.only(solution.devices)
            assert solution.cost == price(VICUNA, solution.plan, chosen, job)
            assert all(m.total <= d.memory_bytes for m, d in zip(solution.cost.memory, chosen.devices, strict=True))
            assert sorted(solution.devices + solution.left_out) == list(range(cluster.size))


def test_a_tied_head_is_divided_with_the_embedding():
    facts, memories = find_shape("qwen3-0.6b").facts, [1 * GIB, GIB // 2]
    cluster = described(memories, [15e9, 8e9], latency=1e-5)
    solution = solve(facts, cluster, Job())
    rows = [len(shard.head) for shard in solution.plan.shards]
    assert widths(solution) == [2] and rows[0] > rows[1] and one_matrix(solution.plan, facts)
    assert all(m.total <= size for m, size in zip(solution.cost.memory, memories, strict=True))


def test_blocks_of_256_are_never_cut_apart():
    facts, cluster = find_shape("llama-1.1b").facts, described([8 * GIB] * 3, [15e9, 12e9, 11e9], latency=1e-5)
    kept = Job("k4", own=(("down", "k4", 0.5), ("down", "k6", 0.5)))
    apart = []
    for job in (kept, Job()):
        shards = solve(facts, cluster, job).plan.shards
        apart.append(any(n % 256 for shard in shards for n in (shard.heads.stop * facts.head_dim, shard.mlp.stop)))
        assert len(shards) > 1
    assert apart == [False, True]


def test_a_weak_device_is_left_out():
    solution = solve(VICUNA, described([8 * GIB] * 3, [15e9, 15e9, 5e8], latency=2e-5), Job())
    assert solution.left_out == (2,) and widths(solution) == [2] and solution.exact


def test_links_decide():
    assert widths(solve(VICUNA, described([8 * GIB] * 4, latency=1e-5), Job())) == [4]
    assert widths(solve(VICUNA, described([8 * GIB] * 4, latency=5e-3), Job())) == [1]
    assert widths(solve(VICUNA, described([3 * GIB] * 4, latency=5e-3), Job())) == [1, 1]
    assert widths(solve(VICUNA, described([8 * GIB] * 4, latency=5e-3), Job(), "throughput")) == [1] * 4


def test_more_ranks_than_kv_heads():
    solution = solve(LARGE, described([6 * GIB] * 12, latency=5e-6, bandwidth=1e10), Job())
    assert max(widths(solution)) > LARGE.kv_heads


def test_an_unknown_goal_is_refused():
    with pytest.raises(PlanError, match="token, first-token, throughput, memory"):
        solve(VICUNA, described([8 * GIB]), Job(), "speed")


@pytest.mark.parametrize("memories, job", [([3 * GIB] * 3, Job(kind="q8", context=4096)), ([3 * GIB], Job())])
def test_remedies_help(memories, job):
    cluster = described(memories)
    tried = remedies(VICUNA, cluster, job, fits)
    assert tried
    with pytest.raises(PlanError) as refused:
        solve(VICUNA, cluster, job)
    for remedy in tried:
        assert remedy.text in str(refused.value)
        assert solve(VICUNA, remedy.cluster, remedy.job)


def sixty_four(kind: str, memory_bytes: int) -> Cluster:
    cluster = described([memory_bytes] * 64)
    factor = {
        "alike": lambda i: 1.0,
        "two kinds": lambda i: 1.0 + 2 * (i % 2),
        "all different": lambda i: 1 + 0.03 * math.sin(i),
        "hosts of 4": lambda i: 1 + 0.03 * math.sin(i),
    }[kind]
    ranks = 4 if kind == "hosts of 4" else 1  # of a host
    devices = tuple(at_speed(d, factor(i), host=f"h{i // ranks}") for i, d in enumerate(cluster.devices))
    return replace(cluster, devices=devices, local=LinkTimes.of(2e-6, 5e9))


@pytest.mark.parametrize(
    "kind, facts",
    [("all different", VICUNA), *thorough(("alike", LARGE), ("two kinds", VICUNA), ("hosts of 4", LARGE))],
)
@pytest.mark.alone
@pytest.mark.clock
def test_sixty_four_ranks(kind, facts):
    cluster = sixty_four(kind, GIB)
    for goal in GOALS:
        start = time.process_time()
        solution = solve(facts, cluster, Job(), goal)
        assert time.process_time() - start < 25  # under 10 where machines are fast, up to 17 on slow ones
        assert all(m.total <= GIB for m in solution.cost.memory)
        print(
            f"{kind}, {facts.layers} layers, {goal}: {time.process_time() - start:.1f} s, {solution.cost.token:.3f} s a"
            " token"
        )
