"""How many bytes a plan takes on each rank, before anything runs.

In: a model, a Shard, a Job. Out: bytes of weights, cache and the rest.

These are what the package stores, what a running rank holds of it, and what comes on top.
Invariant: their sums are what the files and the process of a real rank show
(tests/plan/price/test_cost.py, tests/measure/test_predicted.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpsplit.families.roles import DOWN, GATE, HEAD, KEY, OUTPUT, QUERY, UP, VALUE, Role
from mpsplit.plan.cluster import Device
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Shard
from mpsplit.plan.steps import BLOCK, StepSizes, steps_of

BITS = {
    "q8": 8, "k6": 6, "q6": 6, "m5": 5, "k5": 5, "m4": 4, "k4": 4, "q4": 4, "x4": 4, "i4": 4, "k3": 3, "q3": 3, "k2": 2,
    "q2": 2,
}  # fmt: skip
# lines of a panel that a block has for its scale, or all its numbers; of other kinds half of one
LINES = {"m5": 1, "m4": 1, "k6": 5, "k5": 5, "k4": 5, "x4": 3, "k3": 5, "k2": 5}
PARTS_BLOCK = 256  # of the kinds in parts
IN_PARTS = ("k6", "k5", "k4", "x4", "k3", "k2")
# a tied head is the embedding too, and in no fewer bits unless somebody asks
# (package/stored/recipe.py)
TIED = "q8"
# keys and values that several query heads share: few weights that count for many, and more bits of
# them cost little (package/stored/recipe.py)
SHARED, MOST_MORE = {"q4": "q6", "q3": "q4", "q2": "q4"}, 0.15  # bits a weight of a layer
FLOAT, BFLOAT = "f32", "bf16"
CUT_APART = (OUTPUT.name, DOWN.name)  # along their inputs
FLOAT_BYTES = 4
PANEL, LINE, CHUNK = 16, 64, 32  # of the packed form: extensions/kernels/layout.h
ACTIVATION = 4  # bytes: activations and the cache of keys and values are float32
# bytes of a mapped embedding that a row brings into memory: the page cache keeps it in folios of
# that size at the most
FAULT = 512 << 10
LAYER_GRAPH = 48 << 10  # bytes of a decoder layer's graph in memory
SLACK = 8 << 20  # bytes that allocators keep besides


@dataclass(frozen=True)
class Job:
    """How weights are stored, and what the plan is for.

    A prompt, in chunks, and new tokens, in a context of so many. `own`: of a file whose blocks are
    kept, the kinds that a role has, and in what part of the layers.
    """

    kind: str = "q4"
    block: int = BLOCK
    context: int = 2048
    prompt: int = 128
    new: int = 64
    chunk: int = 128
    own: tuple[tuple[str, str, float], ...] = ()

    @property
    def stored(self) -> str:
        """For people."""
        return f"the file's own {', '.join(dict.fromkeys(kind for _, kind, _ in self.own))}" if self.own else self.kind

    def steps(self, facts: ModelFacts, ranks: int) -> StepSizes:
        """Blocks that are kept are never cut apart."""
        cut = [kind for role, kind, _ in self.own if role in CUT_APART and kind in BITS]
        block = PARTS_BLOCK if any(kind in IN_PARTS for kind in cut) else self.block
        return steps_of(facts, ranks, block, whole_blocks=bool(cut))

    @property
    def rows(self) -> int:
        """Of the largest step."""
        return min(self.chunk, self.prompt)

    @property
    def fused(self) -> bool:
        """Whether linears are quantised, so that the native engine makes one layer of several."""
        return bool(self.own) or self.kind != FLOAT

    @property
    def position(self) -> int:
        """Where the middle one of the new tokens stands."""
        return self.prompt + self.new // 2


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at its peak; `cache` for the whole context."""

    weights: int
    cache: int
    staging: int
    graph: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.staging + self.graph + self.process


def matrix_bytes(rows: int, columns: int, job: Job, kind: str = "") -> int:
    """As the package stores it, in this kind or in the job's.

    bf16 is in panels of 16 rows and chunks of 32 columns. Fewer bits have lines of scales.
    """
    kind = kind or job.kind
    if kind == FLOAT:
        return FLOAT_BYTES * rows * columns
    if kind == BFLOAT:
        return -(-rows // PANEL) * -(-columns // CHUNK) * PANEL * CHUNK * 2
    block = PARTS_BLOCK if kind in IN_PARTS else job.block
    blocks = -(-columns // block)
    lines = math.ceil(blocks * LINES.get(kind, 0.5)) + blocks * (block // CHUNK) * BITS[kind]
    return -(-rows // PANEL) * lines * LINE


def role_bytes(role: Role, rows: int, columns: int, job: Job, kind: str = "") -> int:
    """Of one layer, on average over those of a file; in this kind or the job's where the file says
    none."""
    own = [(kind, part) for name, kind, part in job.own if name == role.name]
    if not own:
        return matrix_bytes(rows, columns, job, kind)
    return round(sum(part * matrix_bytes(rows, columns, job, kind) for kind, part in own))


def shared_kind(facts: ModelFacts, kind: str) -> str:
    """Of keys and values in a package of this kind, unless somebody asks for another one."""
    shared = 2 * facts.kv_heads * facts.head_dim
    share = shared / (shared + 2 * facts.heads * facts.head_dim + 3 * facts.mlp)
    finer = SHARED.get(kind, kind)
    return finer if finer != kind and (BITS[finer] - BITS[kind]) * share <= MOST_MORE else kind


def attention_bytes(facts: ModelFacts, heads: int, kv_heads: int, job: Job) -> int:
    """q, k, v and o of one layer."""
    q, kv = heads * facts.head_dim, kv_heads * facts.head_dim
    shared = shared_kind(facts, job.kind)
    return (
        role_bytes(QUERY, q, facts.hidden, job)
        + role_bytes(KEY, kv, facts.hidden, job, shared)
        + role_bytes(VALUE, kv, facts.hidden, job, shared)
        + role_bytes(OUTPUT, facts.hidden, q, job)
    )


def mlp_bytes(facts: ModelFacts, columns: int, job: Job) -> int:
    """gate, up and down of one layer."""
    return (
        role_bytes(GATE, columns, facts.hidden, job)
        + role_bytes(UP, columns, facts.hidden, job)
        + role_bytes(DOWN, facts.hidden, columns, job)
    )


def head_bytes(facts: ModelFacts, rows: int, job: Job) -> int:
    more = facts.tied and BITS.get(job.kind, BITS[TIED]) < BITS[TIED]
    return role_bytes(HEAD, rows, facts.hidden, job, TIED if more else "")


def norm_bytes(facts: ModelFacts) -> int:
    """The two norms of one layer."""
    return 2 * facts.hidden * ACTIVATION


def cache_bytes(facts: ModelFacts, kv_heads: int, positions: int) -> int:
    """Keys and values of one layer: a value takes a multiple of 16, the positions one of 32."""
    width = -(-facts.head_dim // 16) * 16
    return -(-positions // 32) * 32 * kv_heads * (facts.head_dim + width) * ACTIVATION


def embedding_bytes(facts: ModelFacts, shard: Shard, job: Job) -> int:
    """What is in memory of a mapped embedding of 16 bits once the job's tokens have touched it.

    Nothing where it is the head.
    """
    rows = 0 if facts.tied and shard.embed == shard.head else len(shard.embed)
    pieces = rows * facts.hidden * 2 / FAULT
    return int(pieces * FAULT * -math.expm1(-(job.prompt + job.new) / max(pieces, 1.0)))


def arena_bytes(facts: ModelFacts, shard: Shard, rows: int, fused: bool = True) -> int:
    """Of a step that answers its last row: what lives at once in the attention, in the MLP, and at
    the head (graph/shown/arena.py counts it from a graph). `fused`: of what is quantised."""
    hidden, mlp = facts.hidden, len(shard.mlp)
    q, kv = len(shard.heads) * facts.head_dim, len(shard.kv_heads) * facts.head_dim
    attention = hidden + q + 2 * kv + max(hidden, q) if q else 0
    of_mlp = hidden + (hidden + mlp if fused else max(hidden + 2 * mlp, 3 * mlp))
    head = hidden + len(shard.head) if len(shard.head) else 0
    return ACTIVATION * max(rows * max(attention, of_mlp if mlp else 0, 3 * hidden), head)


def staging_bytes(facts: ModelFacts, shard: Shard, job: Job) -> int:
    """Values of a chunk, what linears make of their inputs, the angles, the logits.

    The arena is smaller: parts share it. Here each has its own, so that a part costs the same
    whatever the others are, as plan/solve divides them.
    """
    q_and_kv = (len(shard.heads) + len(shard.kv_heads)) * facts.head_dim
    rows, widths = job.rows, 3 * facts.hidden + 2 * q_and_kv + len(shard.mlp) * (1 if job.fused else 3)
    values = ACTIVATION * (rows * widths + len(shard.head))
    quantised = 2 * rows * max(facts.hidden, len(shard.mlp))
    angles = 2 * job.context * facts.head_dim // 2 * ACTIVATION * 2
    return values + quantised + angles + 3 * len(shard.head) * ACTIVATION


def memory(facts: ModelFacts, shard: Shard, device: Device, job: Job) -> Memory:
    layers = len(shard.layers)
    weights = layers * (
        attention_bytes(facts, len(shard.heads), len(shard.kv_heads), job)
        + mlp_bytes(facts, len(shard.mlp), job)
        + norm_bytes(facts)
    )
    return Memory(
        weights=weights + head_bytes(facts, len(shard.head), job) + embedding_bytes(facts, shard, job),
        cache=layers * cache_bytes(facts, len(shard.kv_heads), job.context),
        staging=staging_bytes(facts, shard, job),
        graph=layers * LAYER_GRAPH + SLACK,
        process=device.process_bytes,
    )
