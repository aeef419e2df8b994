"""The simulation against the closed formula: equal where the formula is exact, never longer
elsewhere; and what weather does."""

import math
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsplit.errors import MpsplitError
from mpsplit.plan.cluster import Cluster, LinkTimes, Measured, Rate, described
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.message_times import ANSWER, ORDER, all_reduce_seconds
from mpsplit.plan.price.simulation import simulate
from mpsplit.plan.price.sizes import ACTIVATION, Job
from mpsplit.plan.price.weather import Weather
from mpsplit.plan.shards import Share, even_plan, lay_out
from mpsplit.plan.steps import even


def close(value: float):
    return pytest.approx(value, rel=1e-9)


def facts(tensor: int, layers: int, hidden: int = 64, mlp: int = 2) -> ModelFacts:
    """A model that this many ranks share equally."""
    return ModelFacts(
        architecture="LlamaForCausalLM", hidden=hidden, layers=layers, heads=2 * tensor, kv_heads=tensor, head_dim=8,
        mlp=32 * mlp * tensor, vocabulary=32 * tensor, context=4096, tied=False,
    )  # fmt: skip


def alike(ranks: int, latency: float = 50e-6, bandwidth: float = 1e9, read: float = 2e10) -> Cluster:
    return described([1 << 30] * ranks, (read,), latency, bandwidth)


models = st.builds(dict, layers=st.integers(4, 9), hidden=st.sampled_from((64, 512, 2048)), mlp=st.integers(1, 40))
jobs = st.builds(Job, prompt=st.integers(1, 400), chunk=st.integers(1, 150).map(lambda n: max(n, 20)), new=st.just(16))
lines = st.builds(dict, latency=st.floats(1e-6, 1e-2), bandwidth=st.floats(1e8, 1e10), read=st.floats(1e9, 1e11))


# in a stage of 5, 9, 10 or 11 the ranks that fold in hear of a step before others do: see the next
# test
@given(st.sampled_from((1, 2, 3, 4, 6, 7, 8, 12, 13, 16)), st.integers(1, 4), models, jobs, lines)
@settings(deadline=None, max_examples=60)
def test_ranks_and_links_alike_take_exactly_what_the_formula_says(tensor, pipeline, model, job, line):
    f = facts(tensor, **model)
    plan, cluster = even_plan(f, tensor, pipeline), alike(tensor * pipeline, **line)
    cost, simulated = price(f, plan, cluster, job), simulate(f, plan, cluster, job, tokens=3)
    assert simulated.first_token == close(cost.first_token)
    assert list(simulated.tokens) == [close(cost.token)] * 3


@pytest.mark.parametrize("tensor", [5, 9, 10, 11])
@pytest.mark.parametrize("pipeline", [1, 3])
def test_the_formula_is_at_most_one_message_late_where_folding_overlaps_the_order(tensor, pipeline):
    f, job = facts(tensor, 4), Job()
    plan, cluster = even_plan(f, tensor, pipeline), alike(tensor * pipeline)
    cost, simulated = price(f, plan, cluster, job), simulate(f, plan, cluster, job)
    assert cost.token - cluster.remote.time(f.hidden * ACTIVATION) * (1 + 1e-9) <= simulated.token < cost.token


@given(st.sampled_from((1, 2, 3, 4, 8)), st.integers(1, 4), models, lines)
@settings(deadline=None, max_examples=60)
def test_requests_that_fill_the_pipeline_come_out_as_fast_as_its_slowest_stage(tensor, pipeline, model, line):
    f, job = facts(tensor, **model), Job(prompt=20)
    plan, cluster = even_plan(f, tensor, pipeline), alike(tensor * pipeline, **line)
    cost = price(f, plan, cluster, job)
    enough = 1 + math.ceil(cost.token * cost.throughput)
    assert simulate(f, plan, cluster, job, tokens=16, requests=enough).throughput == close(cost.throughput)
    alone = simulate(f, plan, cluster, job)
    assert alone.throughput == close(1 / cost.token)


@given(st.integers(0, 10**9), st.lists(st.integers(1, 7), min_size=1, max_size=4), models, jobs)
@settings(deadline=None, max_examples=60)
def test_where_ranks_and_links_differ_it_never_takes_longer_than_the_formula(seed, widths, model, job):
    chance = random.Random(seed)
    f = facts(2, **model)
    plan = lay_out(f, uneven_stages(f, widths, chance))
    cluster = motley(plan.ranks, chance)
    cost, simulated = price(f, plan, cluster, job), simulate(f, plan, cluster, job, tokens=2)
    assert simulated.first_token <= cost.first_token * (1 + 1e-9)
    # a rank that is late with the prompt may make the token after it late, but not later than by
    # the formula
    assert simulated.first_token + sum(simulated.tokens) <= (cost.first_token + 2 * cost.token) * (1 + 1e-9)


def uneven_stages(f: ModelFacts, widths: list[int], chance: random.Random) -> list[tuple[int, list[Share]]]:
    """Whole KV heads and any number of MLP columns and rows for each; some have nothing to do."""

    def parts(whole: int, count: int, step: int = 1) -> list[int]:
        stops = sorted(chance.randint(0, whole // step) * step for _ in range(count - 1))
        return [b - a for a, b in zip([0, *stops], [*stops, whole], strict=True)]

    stages = []
    for i, (layers, width) in enumerate(zip(even(f.layers, len(widths)), widths, strict=True)):
        embed = parts(f.vocabulary, width) if i == 0 else [0] * width
        head = parts(f.vocabulary, width) if i + 1 == len(widths) else [0] * width
        rows = zip(parts(f.heads, width, 2), parts(f.mlp, width), embed, head, strict=True)
        stages.append((layers, [Share(*row) for row in rows]))
    return stages


def motley(ranks: int, chance: random.Random) -> Cluster:
    """No device and no link like another."""
    cluster = described([1 << 30] * ranks, [chance.uniform(1e9, 5e10) for _ in range(ranks)])
    devices = []
    for device in cluster.devices:
        layer_seconds = Measured(chance.uniform(1e-5, 1e-3))
        attention = Rate(device.read, Measured(chance.uniform(1e10, 1e12)))
        devices.append(replace(device, layer_seconds=layer_seconds, attention=attention))
    pairs = [(a, b) for b in range(ranks) for a in range(b)]
    links = {pair: LinkTimes.of(10 ** chance.uniform(-6, -1), 10 ** chance.uniform(8.5, 10)) for pair in pairs}
    return replace(cluster, devices=tuple(devices), links=links)


@pytest.mark.parametrize("tensor, pipeline", [(4, 1), (3, 2), (1, 3)])
def test_bytes_between_ranks_are_those_of_the_formula_beside_orders_and_answers(tensor, pipeline):
    f, job = facts(tensor, 4, hidden=32768), Job()
    plan, cluster = even_plan(f, tensor, pipeline), alike(tensor * pipeline)
    few, more = (simulate(f, plan, cluster, job, tokens=n) for n in (1, 2))
    answers = sum(rank > 0 for rank in plan.stages[-1])
    talk = ORDER * (plan.ranks - 1) + ANSWER * answers
    assert more.wire_bytes - few.wire_bytes == sum(price(f, plan, cluster, job).wire.values()) + talk
    assert set(price(f, plan, cluster, job).wire) <= {(min(pair), max(pair)) for pair in more.sent}


def test_one_rank_sends_nothing_and_waits_for_nobody():
    simulated = simulate(facts(1, 4), even_plan(facts(1, 4), 1, 1), alike(1), Job())
    assert (simulated.messages, simulated.wire_bytes, simulated.slowest) == (0, 0, None)
    assert simulated.computing == (close(1.0),)


def test_a_straggler_costs_what_it_takes_longer_and_is_named():
    f, job = facts(8, 4, hidden=2048, mlp=40), Job()
    plan, cluster = even_plan(f, 8, 1), alike(8)
    calm, slow = (simulate(f, plan, cluster, job, Weather(stragglers=s)) for s in ({}, {5: 3.0}))
    assert slow.token - calm.token == close(2 * price(f, plan, cluster, job).busy[5])
    assert slow.slowest == 5
    assert slow.waiting[5] < min(slow.waiting[:5])


def test_a_slow_link_is_named():
    f = facts(8, 4)
    cluster = replace(alike(8), links={(2, 6): LinkTimes.of(5e-3, 1e9)})
    assert simulate(f, even_plan(f, 8, 1), cluster, Job()).slowest == (2, 6)


def test_a_slow_link_of_one_round_is_not_paid_by_a_barrier_in_each():
    """Two links are slow, in different rounds: nobody crosses both twice, as the formula would have
    it."""
    f, job = facts(4, 4), Job()
    cluster = replace(alike(4), links={(0, 2): LinkTimes.of(5e-3, 1e9), (2, 3): LinkTimes.of(5e-3, 1e9)})
    cost = price(f, even_plan(f, 4, 1), cluster, job)
    size = f.hidden * ACTIVATION
    assert all_reduce_seconds(cluster, range(4), size) == close(2 * LinkTimes.of(5e-3, 1e9).time(size))
    assert simulate(f, even_plan(f, 4, 1), cluster, job).token < cost.token


def test_the_same_seed_is_the_same_weather_and_jitter_costs():
    f, job = facts(8, 6), Job()
    plan, cluster = even_plan(f, 8, 2), alike(16)

    def play(**weather):
        return simulate(f, plan, cluster, job, Weather(**weather), tokens=40)

    assert play(links=0.2, compute=0.2, seed=1) == play(links=0.2, compute=0.2, seed=1)
    assert play(links=0.2, seed=1).tokens != play(links=0.2, seed=2).tokens
    calm, windy, stormy = play(), play(links=0.2, compute=0.2), play(links=0.5, compute=0.5)
    assert calm.token < windy.token < stormy.token < stormy.p99


@pytest.mark.seconds(60)
@pytest.mark.clock
def test_4096_ranks_need_no_links_of_their_own_and_little_time():
    f = ModelFacts("LlamaForCausalLM", 16384, 126, 128, 8, 128, 53248, 128256, 4096, False)
    plan, cluster = even_plan(f, 64, 64), alike(4096)
    began = time.perf_counter()
    simulated = simulate(f, plan, cluster, Job(), Weather(0.2, 0.2), tokens=2)
    assert not cluster.links and simulated.messages > 300_000
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize(
    "weather, ranks, changes, message",
    [
        (Weather(stragglers={4: 2.0}), 4, {}, "straggler 4 is none of the 4 ranks; give one from 0 to 3"),
        (Weather(stragglers={1: 0.0}), 4, {}, "straggler 1 is 0 times slower; give more than 0"),
        (Weather(links=-0.1), 4, {}, "jitter -0.1 of links is out of range"),
        (Weather(compute=math.nan), 4, {}, "jitter nan of compute is out of range"),
        (Weather(), 5, {}, "the plan has 4 ranks, the cluster 5 devices"),
        (Weather(), 4, dict(tokens=0), "--tokens 0 is out of range; it must be at least 1"),
        (Weather(), 4, dict(requests=0), "--requests 0 is out of range"),
        (
            Weather(),
            4,
            dict(tokens=1921),
            "a prompt of 128 and 1921 tokens do not fit in a context of 2048; use --context 2049",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_numbers(weather, ranks, changes, message):
    with pytest.raises(MpsplitError, match=message):
        simulate(facts(4, 4), even_plan(facts(4, 4), 4, 1), alike(ranks), Job(), weather, **changes)
