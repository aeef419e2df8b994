"""What releases of pnnx write in different ways is written in one.

- Rows whose number is open: Reshape 0=16 1=4 2=-1 becomes 6="16,4,0h", an expression.
- A bias that is added to rows becomes a column first. BinaryOp(rows, bias) alone would add one of
  its numbers to each row where there are as many rows as numbers.
- Blobs have the number of their place.

Invariant: what the newest release writes stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param

OPEN = "-1"
ROWS = {  # the sizes of a Reshape, the last of them open -> where its input has its rows
    ("0", "1", "2"): "0h",  # [rows, heads * dim] becomes [rows, heads, dim]
    ("0", "1"): "0c",  # and back
}
COLUMN = "_ncnnreshape0"  # the end of a column's name


def one_spelling(param: Param, context: Context) -> Param:
    constants = {layer.tops[0]: layer.params["0"] for layer in param.of_type("MemoryData") if len(layer.params) == 1}
    layers = [made for layer in param.layers for made in _with_columns(_of_open_rows(layer), constants)]
    blobs = [blob for layer in layers for blob in layer.tops]
    place = {blob: str(i) for i, blob in enumerate(blobs) if blob.isdecimal() or blob.endswith(COLUMN)}
    return Param(tuple(layer.rename(place) for layer in layers))


def _of_open_rows(layer: Layer) -> Layer:
    """That the open size is the rows is found out later, by check_shapes."""
    keys, sizes = tuple(layer.params), list(layer.params.values())
    if layer.type != "Reshape" or keys not in ROWS or sizes[-1] != OPEN or OPEN in sizes[:-1]:
        return layer
    return replace(layer, params={"6": f'"{",".join([*sizes[:-1], ROWS[keys]])}"'})


def _with_columns(layer: Layer, constants: dict[str, str]) -> list[Layer]:
    """The layer, and before it what makes a column of each constant that it adds to a blob."""
    bare = [blob for blob in layer.bottoms if blob in constants]
    if layer.type != "BinaryOp" or len(layer.bottoms) != 2 or len(bare) != 1:
        return [layer]
    name = f"{layer.name}{COLUMN}"
    column = Layer("Reshape", name, (bare[0],), (name,), {"0": constants[bare[0]], "1": "1"})
    return [column, layer.rename({bare[0]: name})]
