"""The schedule in turns, with stages and shards that are matrices of whole numbers: any number
of ranks, stages, shards and inputs."""

import numpy as np
import pytest

from mpsplit.package.stages.pipeline import FLOAT, Pipeline, Shard, Stage, Value
from mpsplit.package.stages.sharded_part import PAIR, ZEROS, ShardedPart
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, indices_of, runs_of
from mpsplit.runtime.pipeline.shard_work import ShardWork
from mpsplit.runtime.pipeline.sharded_run import ShardedRun, turns

WIDTH = 12
MATRIX = np.random.default_rng(5).integers(-2, 3, (WIDTH, WIDTH)).astype(np.float32)


class Sums:
    """A stage: the sum of what it takes and its number, and of its parts, one after the other."""

    def __init__(self, stage: Stage, number: int):
        self.stage, self.number = stage, number

    def run(self, given, length, together):
        total = np.mod(sum(given[name] for name in self.stage.inputs) + np.float32(self.number), 8)
        for place in range(len(self.stage.parts)):
            total = np.mod(total + together(place, total, length), 8)
        return {name: total for name in self.stage.outputs}


class OfMatrix:
    """A shard: its rows or columns of the matrix; of a pair, both."""

    def __init__(self, part: ShardedPart, number: int):
        self.part, self.indices = part, indices_of(part.shards[number])
        self.rows = np.where((part.places[number] == ZEROS)[:, None], 0, MATRIX[part.places[number]])

    def run(self, given, length):
        x, part = given[self.part.takes], self.part
        if part.cut == ROWS:
            return {part.gives: x @ self.rows.T}
        inner = x if part.cut == COLUMNS else x @ MATRIX[self.indices].T
        return {part.gives: inner @ MATRIX[:, self.indices].T}


def whole(part: ShardedPart, x: np.ndarray) -> np.ndarray:
    return x @ MATRIX.T @ MATRIX.T if part.cut == PAIR else x @ MATRIX.T


def pipeline_of(ranks: int, depth: int) -> Pipeline:
    """Stages of different numbers of parts, cut in every way, on the ranks after their own; a first
    value that is read again; ranks behind `depth` only help."""
    chance = np.random.default_rng(ranks)
    stages, names = [], ["x"]
    for number in range(3 * depth):
        rank, after = number // 3, f"v{number}"
        parts = []
        for place in range(number % 3):
            count = 1 + (number + place) % ranks if depth == ranks else ranks
            order = np.split(chance.permutation(WIDTH), sorted(chance.choice(WIDTH - 1, count - 1, False) + 1))
            members = tuple(sorted((rank + i) % ranks for i in range(count)))
            cut, given = (ROWS, COLUMNS, PAIR)[(number + place) % 3], (0,) * count
            parts.append(
                ShardedPart(("m",), cut, f"t{number}.{place}", f"p{number}.{place}", 2, members,
                            tuple(map(runs_of, order)), given, 0, given)
            )  # fmt: skip
        inputs = (names[-1], "v0") if number % 2 and number > 1 else (names[-1],)
        takes = tuple(part.takes for part in parts)
        stages.append(Stage(f"s{number}", rank, inputs, (after,), parts=tuple(parts), graph_outputs=(*takes, after)))
        names.append(after)
    everything = [*names, *(name for stage in stages for part in stage.parts for name in (part.takes, part.gives))]
    values = {name: Value(FLOAT, (1, "length", WIDTH)) for name in everything}
    return Pipeline(values, ("x",), {"out": names[-1], "early": "v0"}, tuple(stages), 1 << 20).check()


def run_of(comm, depth: int) -> ShardedRun:
    pipeline = pipeline_of(comm.size, depth)
    nets = [Sums(pipeline.stages[i], i) for i in pipeline.of_rank(comm.rank)]
    shards = {
        shard: OfMatrix(pipeline.stages[shard.stage].parts[shard.part], shard.number)
        for shard in pipeline.shards_of(comm.rank)
    }
    return ShardedRun(pipeline, nets, ShardWork(pipeline, shards, comm), comm)


def expected(pipeline: Pipeline, x: np.ndarray) -> dict[str, np.ndarray]:
    values = {"x": x}
    for number, stage in enumerate(pipeline.stages):
        values |= Sums(stage, number).run(values, 0, lambda place, x, length, stage=stage: whole(stage.parts[place], x))
    return {name: values[value] for name, value in pipeline.outputs.items()}


@pytest.mark.mpi
@pytest.mark.parametrize("alone", [False, True], ids=["all-have-stages", "one-has-stages"])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("length", [3, 30_000])  # the longer do not fit into a link's buffers
def test_each_input_comes_out_once_and_in_order(world, alone, count, length):
    run = run_of(world, 1 if alone else world.size)
    if world.rank:
        run.follow()
        return
    chance = np.random.default_rng(1)
    inputs = [{"x": np.mod(chance.integers(0, 8, (1, length + i, WIDTH)).astype(np.float32), 8)} for i in range(count)]
    outputs = [*run.lead(inputs[:1]), *run.lead(inputs[1:])]
    run.end()
    assert len(outputs) == run.inputs == count and not any(list(run.lengths)[:-1])
    for given, found in zip(inputs, outputs, strict=True):
        for name, array in expected(run.pipeline, given["x"]).items():
            np.testing.assert_array_equal(found[name], array)


def test_stages_of_all_ranks_take_turns():
    assert turns(pipeline_of(3, 3)) == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_shards_are_found_by_rank():
    pipeline = pipeline_of(4, 1)
    assert pipeline.depth == 1 and pipeline.ranks == 4 and pipeline.of_rank(3) == []
    assert pipeline.shards_of(3) == [Shard(1, 0, 3), Shard(2, 0, 3), Shard(2, 1, 3)]
