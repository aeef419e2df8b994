"""What a plan is held against: the others that fit, each with its price."""

from dataclasses import replace

from mpsplit.export.model.named_shapes import find_shape
from mpsplit.plan.cluster import described
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.solve.alternatives import alone, alternatives, fewer_are_faster

VICUNA = ModelFacts.from_config(find_shape("vicuna-7b").config() | {"architectures": ["LlamaForCausalLM"]})
GIB = 1 << 30


def test_alternatives_are_priced_and_none_is_better():
    cluster = described([8 * GIB] * 3, latency=1e-3)
    plans = alternatives(VICUNA, cluster, Job())
    assert [a.name for a in plans[:3]] == ["best", "even, --tensor 3 --pipeline 1", "even, --tensor 1 --pipeline 3"]
    for other in plans:
        assert plans[0].solution.cost.token <= other.solution.cost.token * (1 + 1e-9)
        chosen = other.cluster.only(other.solution.devices)
        assert other.solution.cost == price(VICUNA, other.solution.plan, chosen, Job())
    warnings = [fewer_are_faster(a.solution.cost, a.solution.devices, cluster, plans) for a in plans[:3]]
    assert warnings[0] == "" and "on 2 machines, this plan" in warnings[2] and "on 3 machines" in warnings[2]


def test_a_host_alone_has_all_its_ranks_and_one_stands_for_those_that_are_alike():
    """Of five ranks on four hosts: two of 3 GiB are one host that holds the model, two hosts of 8
    are alike, and one of 4 is too small."""
    cluster = described([3 * GIB, 3 * GIB, 8 * GIB, 8 * GIB, 4 * GIB])
    hosts = ("pair", "pair", "first", "second", "small")
    cluster = replace(
        cluster, devices=tuple(replace(d, host=host) for d, host in zip(cluster.devices, hosts, strict=True))
    )
    found = alone(VICUNA, cluster, Job())
    assert [(a.name, a.machines, a.cluster.size) for a in found] == [("pair alone", 1, 1), ("first alone", 1, 1)]
    assert found[0].cluster.devices[0].memory_bytes == 6 * GIB and found[0].cluster.devices[0].threads == 2
    assert all(a.solution.cost == price(VICUNA, a.solution.plan, a.cluster, Job()) for a in found)
    names = [a.name for a in alternatives(VICUNA, cluster, Job())]
    assert names[0] == "best" and names[-2:] == ["pair alone", "first alone"]
