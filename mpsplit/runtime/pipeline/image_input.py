"""An image as the model's input, as the package's ImageSettings say.

In: uint8 [height, width, 3]. Out: float32 [1, channels, height, width].

Resizing is that of Pillow: each value is a weighted mean of those around it, over a support that
grows where the image becomes smaller, first along rows, then along columns, rounded to whole
numbers between the two and after them. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpsplit.package.stages.image_settings import ImageSettings

CUBIC = -0.5  # the sharpness of Pillow's bicubic
NEAREST = 0


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


FILTERS: dict[int, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {2: (1.0, _triangle), 3: (2.0, _cubic)}


def prepared(image: np.ndarray, settings: ImageSettings) -> np.ndarray:
    for height, width in [_target(image.shape[:2], settings.resize)] if settings.resize else []:
        image = resized(image, height, width, settings.filter)
    image = _middle(image, settings.height, settings.width)
    if settings.channels == 1:
        image = np.rint(image @ np.array([0.299, 0.587, 0.114]))[..., None]
    values = (image * settings.scale - np.array(settings.mean)) / np.array(settings.std)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)


def _target(size: tuple[int, ...], resize: tuple[int, ...]) -> tuple[int, int]:
    if len(resize) == 2:
        return resize[0], resize[1]
    height, width = size
    [edge] = resize
    return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)


def resized(image: np.ndarray, height: int, width: int, kind: int) -> np.ndarray:
    """uint8 [height, width, channels]"""
    for axis, size in ((1, width), (0, height)):
        if image.shape[axis] != size:
            weights = _weights(image.shape[axis], size, kind)
            mixed = np.moveaxis(np.tensordot(weights, image.astype(np.float64), ([1], [axis])), 0, axis)
            image = np.clip(np.floor(mixed + 0.5), 0, 255).astype(np.uint8)
    return image


def _weights(before: int, after: int, kind: int) -> np.ndarray:
    """[after, before]: how much of each old value is in each new one."""
    scale = before / after
    centre = (np.arange(after) + 0.5) * scale
    if kind == NEAREST:
        return np.eye(before)[np.minimum(centre.astype(int), before - 1)]
    support, shape = FILTERS[kind]
    wide = max(scale, 1.0)
    old = np.arange(before) + 0.5
    first = np.maximum(np.floor(centre - support * wide + 0.5), 0)[:, None]
    last = np.minimum(np.floor(centre + support * wide + 0.5), before)[:, None]
    inside = (old - 0.5 >= first) & (old - 0.5 < last)
    weights = shape((old - centre[:, None]) / wide) * inside
    return weights / weights.sum(axis=1, keepdims=True)


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out, with black around it where it is smaller."""
    missing = [max(0, wanted - have) for wanted, have in zip((height, width), image.shape[:2], strict=True)]
    if any(missing):
        around = [(extra - extra // 2, extra // 2) for extra in missing]
        image = np.pad(image, [*around, (0, 0)])
    top, left = ((have - wanted) // 2 for wanted, have in zip((height, width), image.shape[:2], strict=True))
    return image[top : top + height, left : left + width]
