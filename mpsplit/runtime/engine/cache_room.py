"""Whether there is memory for a cache, before it is promised.

In: a manifest, the ranks of this host, pages. Out: nothing, or an error with the numbers and what
would fit. A cache takes its memory page by page, so one that is too large would start, and end
days later.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.engine.pages import PAGE

GIB = 2**30
BYTES = {"f32": 4, "bf16": 2, "q8": 1}  # of a number in a page
SCALES = {"q8": 2 * PAGE * 4}  # of a head's keys and values
LANES = 16  # as extensions/kernels/layout.h: a value takes a multiple of them


def page_bytes(manifest: Manifest, rank: int, stored: str) -> int:
    """Of one page on a rank, all its layers, as extensions/kernels/key_value_cache.h has it."""
    dim, shard = manifest.facts.head_dim, manifest.plan.shards[rank]
    width = -(-dim // LANES) * LANES
    head = PAGE * (dim + width) * BYTES[stored] + SCALES.get(stored, 0)
    return shard.attentions * len(shard.kv_heads) * head


def check_room(manifest: Manifest, ranks: Sequence[int], pages: int, stored: str, left: int) -> None:
    """`ranks` share a machine that has so many bytes left."""
    of_page = sum(page_bytes(manifest, rank, stored) for rank in ranks)
    if pages * of_page > left:
        most = left // of_page * PAGE
        fits = f"--cache {most} fits" if most >= manifest.facts.context else "not even one request of the context fits"
        raise RunError(
            f"a cache of {pages * PAGE} tokens takes {pages * of_page / GIB:.1f} GiB on this machine (its ranks:"
            f" {len(ranks)}), and {left / GIB:.1f} GiB are left; {fits}, stored as {stored}"
        )
