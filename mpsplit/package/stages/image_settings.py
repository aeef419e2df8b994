"""How an image becomes the model's input, as its preprocessor_config.json says.

In: that file. Out: ImageSettings, which the package keeps: the run half needs nothing of
transformers.

Invariant: what is not said is not done, but for the size, which the model says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.package.json_fields import many, number, record, whole

PREPROCESSOR = "preprocessor_config.json"
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
BILINEAR = 2


@dataclass(frozen=True)
class ImageSettings:
    """`height` x `width` of what the model takes. An image is first resized: to `resize` (height,
    width; or one number, the shorter edge), by the `filter` of Pillow's numbering; then its middle
    is cut out. Then each of its values is times `scale`, minus `mean`, over `std`, by channel."""

    height: int
    width: int
    channels: int
    resize: tuple[int, ...]
    filter: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, model: Path, channels: int, height: int, width: int) -> ImageSettings:
        """Of a model's folder; its own size, and values from 0 to 1, where it says nothing."""
        path = model / PREPROCESSOR
        try:
            said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as wrong:
            raise ModelError(f"{path} is not JSON ({wrong}); download it again") from None
        size = said.get("size", {"height": height, "width": width})
        size = size if isinstance(size, dict) else {"shortest_edge": size} if "crop_pct" in said else size
        resize = _edges(size) if said.get("do_resize", True) else ()
        if "crop_pct" in said and "shortest_edge" in (size if isinstance(size, dict) else {}):
            shortest = size["shortest_edge"]  # as a ConvNext's: larger first, then the middle
            resize = (int(shortest / said["crop_pct"]),) if shortest < 384 else (shortest, shortest)
        filter_ = said.get("resample", BILINEAR)
        if filter_ not in FILTERS:
            raise ModelError(f"{path} resizes with filter {filter_}; there are {', '.join(map(str, FILTERS))}")
        scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        normal = said.get("do_normalize", "image_mean" in said)
        mean = said.get("image_mean") if normal else None
        std = said.get("image_std") if normal else None
        return cls(
            height, width, channels, resize, filter_, scale,
            _each(mean, 0.0, channels), _each(std, 1.0, channels),
        )  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageSettings:
        KIND(data, "images")
        lists = {name: tuple(data[name]) for name in ("resize", "mean", "std")}
        return cls(**{name: data[name] for name in cls.__dataclass_fields__} | lists)


EDGE = whole(1, 1 << 14)
KIND = record(
    {name: EDGE for name in ("height", "width", "channels")}
    | {"resize": many(EDGE, 2), "filter": whole(0, 9), "scale": number(1e9)}
    | {"mean": many(number(1e9), 1 << 14), "std": many(number(1e9), 1 << 14)}
)


def image_size_of(model: Path) -> tuple[int, int]:
    """(height, width) that a model without a size of its own is given."""
    path = model / PREPROCESSOR
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size = said.get("crop_size") or said.get("size") or 224
    edges = _edges(size)
    return (edges[0], edges[-1])


def _edges(size: Any) -> tuple[int, ...]:
    if isinstance(size, int):
        return (size, size)
    if "shortest_edge" in size:
        return (size["shortest_edge"],)
    return (size["height"], size["width"])


def _each(values: Any, otherwise: float, channels: int) -> tuple[float, ...]:
    if values is None:
        return (otherwise,) * channels
    return tuple(map(float, values)) if isinstance(values, list) else (float(values),) * channels
