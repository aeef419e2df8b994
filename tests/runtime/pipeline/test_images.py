"""Images: read from files, resized, scaled."""

import struct
import zlib

import numpy as np
import pytest

from mpsplit.errors import RunError
from mpsplit.package.stages.image_settings import ImageSettings
from mpsplit.runtime.pipeline import image_files
from mpsplit.runtime.pipeline.image_files import read_image
from mpsplit.runtime.pipeline.image_input import prepared, resized

chance = np.random.default_rng(3)
PIXELS = chance.integers(0, 256, (9, 7, 3), np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, colour: int, kinds=(0,), more: bytes = b"", depth: int = 8, interlaced: int = 0) -> bytes:
    """`kinds`: of prediction, one line after the other."""
    height, width, channels = pixels.shape
    lines, above = b"", np.zeros(width * channels, np.uint8)
    for row, line in enumerate(pixels.reshape(height, -1)):
        kind = kinds[row % len(kinds)]
        lines += bytes([kind]) + predicted(kind, line, above, channels)
        above = line
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return image_files.PNG + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def predicted(kind: int, line: np.ndarray, above: np.ndarray, channels: int) -> bytes:
    """What a writer puts there, by the text of the standard."""
    out = bytearray()
    for i, value in enumerate(line.tolist()):
        a = int(line[i - channels]) if i >= channels else 0
        b, c = int(above[i]), int(above[i - channels]) if i >= channels else 0
        p = a + b - c
        nearest = a if abs(p - a) <= abs(p - b) and abs(p - a) <= abs(p - c) else b if abs(p - b) <= abs(p - c) else c
        out.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
    return bytes(out)


@pytest.mark.parametrize("kinds", [(0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0)])
def test_a_png_of_every_prediction(tmp_path, kinds):
    (tmp_path / "x.png").write_bytes(png(PIXELS, 2, kinds))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), PIXELS)


def test_grey_transparent_and_palette_pngs(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(PIXELS[..., :1], 0))
    np.testing.assert_array_equal(read_image(path), np.repeat(PIXELS[..., :1], 3, axis=-1))
    path.write_bytes(png(np.concatenate([PIXELS, PIXELS[..., :1] * 0 + 255], -1), 6))
    np.testing.assert_array_equal(read_image(path), PIXELS)
    palette = chance.integers(0, 256, (256, 3), np.uint8)
    path.write_bytes(png(PIXELS[..., :1], 3, more=chunk(b"PLTE", palette.tobytes())))
    np.testing.assert_array_equal(read_image(path), palette[PIXELS[..., 0]])


def test_pnm(tmp_path):
    (tmp_path / "x.ppm").write_bytes(b"P6\n# made by hand\n7 9\n255\n" + PIXELS.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "x.ppm"), PIXELS)
    (tmp_path / "x.pgm").write_bytes(b"P5 7 9 255\n" + PIXELS[..., 0].tobytes())
    assert read_image(tmp_path / "x.pgm").shape == (9, 7, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no image at all", image_files.PNG, png(PIXELS, 2)[:-30], b"P6 7 9 255\n" + bytes(9),
        b"P6 7 9 65535\n" + bytes(999),
        image_files.PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 30, 9, 8, 2, 0, 0, 0)),
    ],
    ids=["empty", "text", "head", "cut", "short", "deep", "huge"],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_one_line(tmp_path, monkeypatch, data):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)  # as where it is not installed
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(RunError, match=r"--image .*x \(\d+ bytes\) is no image that can be read") as refused:
        read_image(tmp_path / "x")
    assert "\n" not in str(refused.value)
    with pytest.raises(RunError, match="cannot be read"):
        read_image(tmp_path / "none")


def settings(**changes) -> ImageSettings:
    given = dict(height=4, width=4, channels=3, resize=(), filter=2, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    return ImageSettings(**given | changes)


def test_the_middle_is_cut_out_and_the_axes_turned():
    array = prepared(PIXELS, settings(scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0,) * 3))
    assert array.shape == (1, 3, 4, 4) and array.dtype == np.float32
    expected = (PIXELS[2:6, 1:5].astype(np.float64) * 0.5 - [1.0, 2.0, 3.0]) / 2.0
    np.testing.assert_allclose(array[0].transpose(1, 2, 0), expected, rtol=1e-6)


def test_a_smaller_image_gets_a_black_edge():
    array = prepared(PIXELS[:2], settings())
    assert array.shape == (1, 3, 4, 4) and not array[0, :, 0].any() and array[0, :, 1].any()


@pytest.mark.parametrize("kind", [2, 3])
def test_resizing_keeps_what_is_flat_and_the_mean(kind):
    flat = np.full((12, 10, 3), 77, np.uint8)
    assert (resized(flat, 5, 20, kind) == 77).all()
    smooth = np.add.outer(np.arange(64), np.arange(64))[..., None].repeat(3, -1).astype(np.uint8)
    small = resized(smooth, 16, 16, kind)
    assert abs(small.mean() - smooth.mean()) < 1
    np.testing.assert_allclose(
        small[4:-4, 4:-4, 0], smooth[:, :, 0].reshape(16, 4, 16, 4).mean((1, 3))[4:-4, 4:-4], atol=1
    )


@pytest.mark.parametrize("kind, torchs", [(2, "bilinear"), (3, "bicubic")])
@pytest.mark.parametrize("size", [(5, 4), (20, 13), (9, 30)])
def test_resizing_is_that_of_torch_with_antialias(kind, torchs, size):
    import torch

    pixels = PIXELS // 3 + 85  # far from what is cut off at 0 and 255 between the two passes
    floats = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    wanted = torch.nn.functional.interpolate(floats, size, mode=torchs, antialias=True)[0].numpy()
    found = resized(pixels, *size, kind).astype(np.float32).transpose(2, 0, 1)
    assert np.abs(found - wanted).max() <= 1.3  # rounded twice
