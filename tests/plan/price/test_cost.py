"""What a plan costs: sizes against the real packed form, seconds against sums by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import ClusterError
from mpsplit.families.roles import LINEARS
from mpsplit.native import cpp
from mpsplit.package.stored.quantisation import BLOCKS, KINDS, Quantisation
from mpsplit.plan.cluster import Cluster, LinkTimes, Measured, Rate, described
from mpsplit.plan.price.cost import attention_seconds, price
from mpsplit.plan.price.message_times import (
    all_reduce_rounds,
    all_reduce_seconds,
    handover_seconds,
    order_bytes,
    order_seconds,
)
from mpsplit.plan.price.sizes import (
    Job,
    arena_bytes,
    attention_bytes,
    cache_bytes,
    head_bytes,
    matrix_bytes,
    memory,
    mlp_bytes,
    staging_bytes,
)
from mpsplit.plan.shards import Range, even_plan
from tests.missing import need
from tests.models import facts

JOB = Job(context=128, prompt=32, new=16, chunk=32)
WIDE = dict(hidden=512, heads=16, kv_heads=8, head_dim=32, mlp=1536, vocabulary=4096, layers=8)


@given(
    st.integers(1, 200), st.integers(1, 9), st.sampled_from([*filter(None, KINDS.values())]), st.sampled_from(BLOCKS)
)
def test_matrices_are_as_large_as_the_kernels_pack_them(rows, blocks, bits, block):
    need("the kernels")
    kernels = cpp.kernels()
    how = Quantisation.named(Quantisation(bits).kind, block)
    columns = blocks * max(block, how.block)
    assert matrix_bytes(rows, columns, Job(how.kind, block)) == kernels.packed_bytes(rows, columns, bits, how.block)


def test_a_file_takes_what_its_kinds_take_on_average():
    f = facts(**WIDE)
    own = tuple((role.name, kind, 0.5) for role in LINEARS for kind in ("k4", "q8"))
    both, mixed = (Job("k4"), Job("q8")), Job("q4", own=own)
    assert mlp_bytes(f, 512, mixed) == sum(mlp_bytes(f, 512, job) for job in both) / 2
    assert attention_bytes(f, 8, 4, mixed) == sum(attention_bytes(f, 8, 4, job) for job in both) / 2
    tied = replace(f, tied=True)
    assert head_bytes(tied, 256, Job("k4", own=(("head", "k6", 1.0),))) == matrix_bytes(256, f.hidden, Job("k6"))


def test_floats_take_what_they_take():
    assert matrix_bytes(3, 5, Job(kind="f32")) == 60 and matrix_bytes(17, 33, Job(kind="bf16")) == 32 * 64 * 2
    assert cache_bytes(facts(), 4, 33) == 64 * 4 * (8 + 16) * 4


@given(st.integers(1, 16), st.integers(1, 8))
def test_shares_add_up_to_the_whole(tensor, pipeline):
    f = facts(**WIDE)
    plan = even_plan(f, tensor, pipeline)
    device = described([1 << 40]).devices[0]
    job = replace(JOB, kind="f32")
    parts = [memory(f, shard, device, job) for shard in plan.shards]
    replicated = sum(len(s.layers) * len(s.kv_heads) for s in plan.shards) - f.layers * f.kv_heads
    per_kv_head = 2 * f.hidden * f.head_dim * 4
    norms = sum(2 * f.hidden * 4 * len(s.layers) for s in plan.shards)
    matrices = (
        f.layers * (f.hidden * f.head_dim * (2 * f.heads + 2 * f.kv_heads) + 3 * f.hidden * f.mlp)
        + f.hidden * f.vocabulary
    )
    embedding = sum(p.weights for p in parts) - 4 * matrices - norms - replicated * per_kv_head
    assert 0 <= embedding <= 2 * f.hidden * f.vocabulary


@given(st.integers(1, 16), st.integers(1, 3), st.sampled_from([*KINDS]))
def test_a_tied_head_is_counted_once_and_in_8_bits_at_least(tensor, pipeline, kind):
    untied, device, job = facts(**WIDE), described([1 << 40]).devices[0], replace(JOB, kind=kind)
    head = replace(job, kind=kind if kind in ("f32", "bf16") else "q8")
    for shard in even_plan(untied, tensor, pipeline).shards:
        apart, tied = (memory(replace(untied, tied=t), shard, device, job).weights for t in (False, True))
        more = matrix_bytes(len(shard.head), untied.hidden, head) - matrix_bytes(len(shard.head), untied.hidden, job)
        table = memory(untied, replace(shard, head=Range(0, 0)), device, job).weights
        table -= memory(untied, replace(shard, head=Range(0, 0), embed=Range(0, 0)), device, job).weights
        assert tied == apart + more - table * (pipeline == 1)


def test_decoding_alone_is_reading_the_weights():
    f, cluster = facts(**WIDE), described([1 << 34], read=[1e10])
    cost = price(f, even_plan(f, 1, 1), cluster, JOB)
    stage = cost.stages[0]
    weights = memory(f, even_plan(f, 1, 1).shards[0], cluster.devices[0], replace(JOB, prompt=0, new=0)).weights
    assert stage.compute == pytest.approx(
        (weights + f.layers * cache_bytes(f, 8, 48)) / 1e10 + f.layers * 20e-6, rel=0.02
    )
    assert stage.collectives == stage.handing_on == 0 and cost.payload == 0 and not cost.wire
    assert cost.token == pytest.approx(stage.seconds + 200e-6)


def test_attention_takes_what_its_products_take_or_its_reading():
    f, job = facts(**WIDE), JOB
    device = described([1 << 34], read=[1e10]).devices[0]

    def more(rows: int, attention: Rate) -> float:
        """Seconds that 1,000 positions more take, in whole pages."""
        at = replace(device, attention=attention)
        near, far = (attention_seconds(f, at, 16, 8, rows, position, job) for position in (3200, 4224))
        return far - near

    slow, fast = Measured(1e6), Measured(1e15)
    products = 4 * 16 * f.head_dim * 1024 * 64
    assert more(64, Rate(decode=fast, prefill=slow)) == pytest.approx(products / 1e6)
    assert more(1, Rate(decode=slow, prefill=fast)) == pytest.approx(cache_bytes(f, 8, 1024) / 1e6)


def test_staging_is_a_chunk_the_angles_and_the_logits():
    f = facts(**WIDE)
    [shard] = even_plan(f, 1, 1).shards
    values = 32 * (3 * 512 + 2 * (512 + 256) + 1536) * 4 + 4096 * 4
    quantised, angles, logits = 2 * 32 * 1536, 2 * 128 * 16 * 4 * 2, 3 * 4096 * 4
    assert staging_bytes(f, shard, JOB) == values + quantised + angles + logits
    # what goes past the MLP, what it reads, what its middle makes: parts share the arena
    assert arena_bytes(f, shard, JOB.rows, JOB.fused) == 32 * (512 + 512 + 1536) * 4 < values


def test_an_order_of_a_chunk_brings_8_bytes_a_token():
    assert order_bytes(1) == 48 and order_bytes(100) == 48 + 800


def test_a_pipeline_adds_room_and_not_speed():
    f, job = facts(**WIDE), JOB
    alone, split = (price(f, even_plan(f, 1, n), described([1 << 34] * n), job) for n in (1, 2))
    assert split.token > alone.token and split.throughput > 1.5 * alone.throughput
    assert max(m.total - m.process for m in split.memory) < 0.7 * max(m.total - m.process for m in alone.memory)


def test_a_group_pays_latency_for_each_of_its_sums():
    f = facts(**WIDE)
    near, far = (price(f, even_plan(f, 2, 1), described([1 << 34] * 2, latency=s), JOB) for s in (1e-6, 1e-3))
    sums = 2 * f.layers + 1
    assert far.token - near.token == pytest.approx(
        (sums + 2) * (1e-3 - 1e-6), rel=1e-6
    )  # an order and an answer besides
    assert near.payload == 2 * sums * f.hidden * 4 == near.wire[0, 1]


@given(st.integers(1, 70), st.integers(4, 1 << 20))
def test_every_rank_hears_of_every_other(ranks, size):
    group = [3 * i for i in range(ranks)]
    known = {rank: {rank} for rank in group}
    rounds = all_reduce_rounds(group, min(size, 65536))
    for messages in rounds:
        before = {rank: set(heard) for rank, heard in known.items()}
        for m in messages:
            known[m.target] |= before[m.source]
    assert all(heard == set(group) for heard in known.values())
    assert len(rounds) == (ranks.bit_length() - 1) + (2 if ranks & (ranks - 1) else 0)


def test_long_sums_send_halves():
    sizes = [sorted({m.size for m in messages}) for messages in all_reduce_rounds(range(4), 1 << 20)]
    assert sizes == [[1 << 19], [1 << 18], [1 << 18], [1 << 19]]


def test_the_slowest_pair_decides():
    devices = described([1 << 30] * 4).devices
    slow, fast = LinkTimes.of(1e-3, 1e9), LinkTimes.of(1e-6, 1e9)
    cluster = Cluster(devices, {(0, 1): slow}, fast, fast)
    assert all_reduce_seconds(cluster, (0, 1, 2, 3), 4) == pytest.approx(slow.time(4) + fast.time(4))
    assert all_reduce_seconds(cluster, (2, 3), 4) == pytest.approx(fast.time(4))
    assert handover_seconds(cluster, (2,), (0, 1, 3), 4) == pytest.approx(3 * fast.time(4))
    assert order_seconds(cluster, (0, 1, 2, 3)) == pytest.approx(slow.time(48) + 0)


def test_prompts_overlap_in_the_stages_of_a_pipeline():
    f = facts(**WIDE)
    cost = price(f, even_plan(f, 1, 2), described([1 << 34] * 2), replace(JOB, prompt=96, chunk=32))
    chunks = [stage.chunks for stage in cost.stages]
    assert all(len(seconds) == 3 for seconds in chunks)
    assert cost.first_token < cost.orders + sum(map(sum, chunks))
    assert (
        cost.first_token
        >= cost.orders + chunks[0][0] + max(sum(seconds[1:]) for seconds in chunks) + chunks[1][0] * 0.99
    )


def test_a_kind_that_nobody_measured():
    f, cluster = facts(), described([1 << 30])
    bare = replace(cluster, devices=(replace(cluster.devices[0], kinds={"q8": cluster.devices[0].kinds["q8"]}),))
    with pytest.raises(
        ClusterError, match=r"machine-0 was not measured with q4, only with q8; run `mpsplit probe` again"
    ):
        price(f, even_plan(f, 1, 1), bare, Job())


def test_faster_is_never_slower():
    f = facts(**WIDE)
    plan, cluster = even_plan(f, 3, 1), described([1 << 34] * 3)
    slow = price(f, plan, cluster, JOB).token
    for i in range(3):
        kinds = {k: replace(r, decode=Measured(r.decode.value * 2)) for k, r in cluster.devices[i].kinds.items()}
        devices = tuple(replace(d, kinds=kinds) if j == i else d for j, d in enumerate(cluster.devices))
        assert price(f, plan, replace(cluster, devices=devices), JOB).token <= slow
