"""Which values pass between which ranks."""

from mpsplit.package.stages.pipeline import FLOAT, Pipeline, Stage, Value
from mpsplit.runtime.pipeline.rank_ring import routes


def test_a_skip_goes_on_as_far_as_it_is_read_and_no_further():
    pipeline = Pipeline(
        values={name: Value(FLOAT, (1, 4)) for name in ("x", "ids", "a", "b", "c")},
        inputs=("x", "ids"),
        outputs={"logits": "c", "hidden": "a"},
        stages=(
            Stage("first", 0, ("x",), ("a",)),
            Stage("second", 1, ("a", "ids"), ("b",)),
            Stage("third", 2, ("b", "a"), ("c",)),
        ),
    ).check()
    first, second, third = routes(pipeline)
    assert first.takes == () and first.gives == second.takes == ("ids", "a")
    assert second.gives == third.takes == ("a", "b")
    assert [of.answers for of in (first, second, third)] == [(), (), ("c",)]  # rank 0 has a itself
