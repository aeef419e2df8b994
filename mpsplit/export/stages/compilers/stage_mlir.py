"""A program of torch.export as MLIR, whose weights are in an archive.

In: an ExportedProgram. Out: MLIR, and the arrays that it reads by name.

torch-mlir's importer, as IREE ships it, would write weights out as text. Here each is a global of
the module, which IREE reads from a parameter archive when the module is loaded. They are named by
their place, so that equal layers have equal MLIR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from iree.compiler import ir
from iree.compiler.extras.fx_importer import FxImporter, FxImporterHooks

FUNCTION, SCOPE = "main", "stage"  # as runtime/iree/iree_program.py reads them
TYPES = {torch.float32: "f32", torch.float64: "f64", torch.int64: "i64", torch.int32: "i32"}


@dataclass(frozen=True)
class StageMlir:
    """`arrays`: by their names in the archive; `origins`: of those that are weights, the attribute
    of the program."""

    text: str
    arrays: Mapping[str, np.ndarray]
    origins: Mapping[str, str]


class _Archived(FxImporterHooks):
    """Weights and constants become globals."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        self.top: Any = None

    def prepare_module(self, module_op: Any) -> None:
        self.top = module_op.regions[0].blocks[0]

    def resolve_input(self, gni: Any, value: torch.Tensor, info: Any) -> Any:
        """A parameter or buffer."""
        return self._global(gni, value, info.ir_type, info.input_spec.target)

    def resolve_literal(self, gni: Any, literal: Any, info: Any) -> Any:
        """A constant within the graph; a single number stays there."""
        if not isinstance(literal, torch.Tensor) or literal.numel() < 2:
            return None
        return self._global(gni, literal, gni._cc.tensor_to_vtensor_type(literal), "")

    def _global(self, gni: Any, tensor: torch.Tensor, seen_as: Any, origin: str) -> Any:
        if tensor.dtype not in TYPES:
            return None
        name = f"array_{len(self.arrays)}"
        self.arrays[name] = np.ascontiguousarray(tensor.detach().numpy())
        if origin:
            self.origins[name] = origin
        sizes = "".join(f"{size}x" for size in tensor.shape)
        with ir.Location.unknown(gni._c):
            kind = ir.Type.parse(f"tensor<{sizes}{TYPES[tensor.dtype]}>")
            attributes = {
                "sym_name": ir.StringAttr.get(name),
                "sym_visibility": ir.StringAttr.get("private"),
                "type": ir.TypeAttr.get(kind),
                "initial_value": ir.Attribute.parse(f'#flow.parameter.named<"{SCOPE}"::"{name}"> : {kind}'),
            }
            ir.Operation.create("util.global", attributes=attributes, ip=ir.InsertionPoint.at_block_begin(self.top))
            with ir.InsertionPoint(gni._b):
                read = {"global": ir.FlatSymbolRefAttr.get(name)}
                loaded = ir.Operation.create("util.global.load", results=[kind], attributes=read).result
                return ir.Operation.create("torch_c.from_builtin_tensor", results=[seen_as], operands=[loaded]).result


def stage_mlir(program: torch.export.ExportedProgram) -> StageMlir:
    archived = _Archived()
    importer = FxImporter(hooks=archived)
    importer.import_program(program, func_name=FUNCTION)
    return StageMlir(str(importer.module), archived.arrays, archived.origins)
