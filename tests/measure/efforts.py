"""How little a probe may do and still have every part tried."""

from __future__ import annotations

from mpsplit.measure.probe_engine import Effort

TINY = Effort(
    seconds=0, rounds=(2, 2), hidden=64, mlp=96, heads=4, kv_heads=2, head_dim=16, weights=200_000, read=1 << 20,
    cache=1 << 16, deep=256, fill=256, steps=1, disk=1 << 20,
)  # fmt: skip
