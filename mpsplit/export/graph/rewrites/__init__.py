"""The rewrites between pnnx's .param and the package's, read top to bottom, one a file.

In: the Param that pnnx wrote of a miniature, its layers named by their weights. Out: the Param of
the whole slice, which the engine runs. Each is a pure function, with a text artefact after it.
"""

from __future__ import annotations

from collections.abc import Callable

from mpsplit.export.graph.rewrites.all_layers import all_layers
from mpsplit.export.graph.rewrites.collective_arguments import collective_arguments
from mpsplit.export.graph.rewrites.constants_where_read import constants_where_read
from mpsplit.export.graph.rewrites.dynamic_length import dynamic_length
from mpsplit.export.graph.rewrites.flat_rope_tables import flat_rope_tables
from mpsplit.export.graph.rewrites.head_from_hidden import head_from_hidden
from mpsplit.export.graph.rewrites.kv_cache import kv_cache
from mpsplit.export.graph.rewrites.named_blobs import named_blobs
from mpsplit.export.graph.rewrites.one_spelling import one_spelling
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.export.graph.rewrites.true_sizes import true_sizes
from mpsplit.package.param_text import Param

REWRITES: tuple[Callable[[Param, Context], Param], ...] = (
    named_blobs,
    collective_arguments,
    one_spelling,
    dynamic_length,
    flat_rope_tables,
    head_from_hidden,
    constants_where_read,
    true_sizes,
    all_layers,
    kv_cache,
)
__all__ = ["REWRITES", "Context"]
