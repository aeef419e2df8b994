"""The native engine takes the bytes that its graph says, and no blob lies elsewhere."""

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.graph.shown.arena import engine_arena
from mpsplit.graph.shown.engine_view import package_graph
from mpsplit.package.manifest import Manifest
from mpsplit.plan.price.sizes import arena_bytes
from mpsplit.runtime.engine.engine_protocol import Span
from mpsplit.runtime.engine.native_engine import NativeEngine
from tests.missing import needs
from tests.models import EXAMPLE

pytestmark = needs("the engine")
# spans, and whether every row is answered
STEPS = (([1], False), ([16], False), ([5, 1, 3], False), ([33], False), ([33], True), ([100], False))


@pytest.mark.parametrize("model", [EXAMPLE, "llama-bias", "qwen3", "granite"], ids=str)
def test_measured_is_planned(package_of, model):
    package = package_of(model, 1, 1)
    manifest = Manifest.load(package)
    graph = package_graph(package, manifest, 0)
    engine, most = NativeEngine(package, manifest, Alone(), 1), 0
    engine.reserve(64, "f32")
    for lengths, every_row in STEPS:
        spans = [Span(slot, 0, length) for slot, length in enumerate(lengths)]
        for slot in range(len(lengths)):
            engine.place(slot, 0, range(16 * slot, 16 * slot + 8))
        rows = sum(lengths)
        engine.batch(np.arange(rows) % 50, spans, every_row)
        planned = engine_arena(graph, rows, rows if every_row else len(lengths))
        most = max(most, planned.bytes)
        arena, strays, _ = engine.memory
        assert arena == most, "it grows to the largest step"
        if not every_row and len(lengths) == 1 and model != "granite":  # which scales what it adds
            foretold = arena_bytes(manifest.facts, manifest.plan.shards[0], rows, fused=False)
            assert foretold == pytest.approx(planned.bytes, rel=0.02)
        assert planned.bound <= planned.bytes <= 1.05 * planned.bound
        assert strays == 0
