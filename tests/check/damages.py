"""Kinds of damage that a hash cannot see: the manifest is made to fit what was changed.

In: a package of two ranks or more. Out: the same, damaged in one place.

Run as a program it measures the table of docs/right.md: `python -m tests.check.damages PACKAGE
MODEL FOLDER` copies the package into FOLDER and prints what verify finds, damage by damage.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsplit.check.gate import farthest_part
from mpsplit.package.agreement import PartAgreement
from mpsplit.package.agreement import floats as numbers
from mpsplit.package.manifest import FUSED, GRAPH, RANK_TEXT, File, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.float_weights import read_weights, write_weights
from mpsplit.package.stored.quantisation import LAYER, PANEL
from mpsplit.package.stored.weight_files import WeightFiles
from tests.running import completed


def rehash(package: Path) -> None:
    manifest = Manifest.load(package)
    parts = tuple(
        replace(part, files=tuple(File.of(package, package / file.path) for file in part.files))
        for part in manifest.ranks
    )
    replace(manifest, ranks=parts).save(package)


def packed(package: Path, rank: int, number: int) -> np.ndarray:
    """The bytes of a packed file: that of a rank's layer of this number."""
    folder = rank_folder(package, rank)
    return np.memmap(folder / WeightFiles.load(folder).packed[number][1], np.uint8, "r+")


def floats(package: Path, rank: int, change: Callable[[str, np.ndarray], None]) -> None:
    """`change` is given each array of the file of floats, and the name of its layer."""
    folder = rank_folder(package, rank)
    graph, path = Param.load(folder / GRAPH), folder / WeightFiles.load(folder).floats
    weights = {name: [np.array(array) for array in arrays] for name, arrays in read_weights(graph, path).items()}
    for name, arrays in weights.items():
        for array in arrays:
            change(name, array)
    write_weights(graph, weights, path)


def texts(package: Path, rank: int, change: Callable[[str], str], names: tuple[str, ...] = (GRAPH, FUSED)) -> None:
    for name in names:
        path = rank_folder(package, rank) / name
        before = path.read_text()
        after = change(before)
        assert after != before, f"nothing to damage in {path}"
        path.write_text(after)


def every_rank(package: Path) -> range:
    return range(Manifest.load(package).plan.ranks)


def layer_2(package: Path) -> np.ndarray:
    """Of the last rank."""
    return packed(package, every_rank(package)[-1], 2)


def a_file_zeroed(package: Path) -> None:
    layer_2(package)[:] = 0


def a_file_of_another_layer(package: Path) -> None:
    layer_2(package)[:] = packed(package, every_rank(package)[-1], 3)


def ranks_swapped(package: Path) -> None:
    first, second = packed(package, 0, 2), layer_2(package)
    first[:], second[:] = second.copy(), first.copy()


def rows_permuted(package: Path) -> None:
    """The panels of one matrix, in reverse."""
    folder = rank_folder(package, every_rank(package)[-1])
    layer = next(x for x in Param.load(folder / GRAPH).layers if x.type == LAYER and "layers.2.mlp.down" in x.name)
    start = (layer.number("4") - WeightFiles.load(folder).packed[2][0]) * 64
    panels = layer_2(package)[start : start + layer.number("5")].reshape(-(-layer.number("0") // PANEL), -1)
    panels[:] = panels[::-1].copy()


def a_scale_doubled(package: Path) -> None:
    layer_2(package)[:2].view(np.uint16)[:] += 1 << 10  # the first block's, of the first row


def a_scale_with_another_exponent(package: Path) -> None:
    layer_2(package)[:2].view(np.uint16)[:] ^= 1 << 13


def a_high_bit(package: Path) -> None:
    layer_2(package)[64] ^= 0x80  # of one weight of 4 bits


def a_norm_zeroed(package: Path) -> None:
    def change(name: str, array: np.ndarray) -> None:
        if name.endswith("layers.2.post_attention_layernorm"):
            array[:] = 0

    for rank in every_rank(package):
        floats(package, rank, change)


def a_norm_bit(package: Path) -> None:
    def change(name: str, array: np.ndarray) -> None:
        if name.endswith("layers.2.post_attention_layernorm"):
            array[:1].view(np.uint32)[:] ^= 1 << 24

    floats(package, every_rank(package)[-1], change)


def keys_as_values(package: Path) -> None:
    """In layer 2 of one rank, k and v read each other's matrices."""

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        for i, line in enumerate(lines):
            if "layers.2.self_attn.q_proj " in line and " 14=" in line:
                k, v = re.search(r" 14=(\d+)", line)[1], re.search(r" 24=(\d+)", line)[1]
                lines[i] = line.replace(f" 14={k} ", f" 14={v} ").replace(f" 24={v} ", f" 24={k} ")
        return "".join(lines)

    texts(package, every_rank(package)[-1], change, (FUSED,))


def wrong_theta(package: Path) -> None:
    """A tenth of the model's."""
    manifest = Manifest.load(package)
    pairs = len(manifest.rope.inverse_frequencies)
    wrong = tuple(f * 10 ** (i / pairs) for i, f in enumerate(manifest.rope.inverse_frequencies))
    replace(manifest, rope=replace(manifest.rope, inverse_frequencies=wrong)).save(package)
    line = "inverse_frequencies " + " ".join(map(str, wrong))
    for rank in every_rank(package):
        texts(package, rank, lambda text: re.sub("inverse_frequencies .*", line, text), (RANK_TEXT,))


def another_epsilon(package: Path) -> None:
    for rank in every_rank(package):
        texts(package, rank, lambda text: re.sub(r"(layers\.2\.\S+_layernorm .* 1=)\S+", r"\g<1>1.0", text))


def another_scale_of_attention(package: Path) -> None:
    for rank in every_rank(package):
        texts(package, rank, lambda text: re.sub(r"(Attention +2\..* 3=)(\S+)", r"\g<1>0.05", text), (FUSED,))


def an_embedding_zeroed(package: Path) -> None:
    folder = rank_folder(package, 0)
    if name := WeightFiles.load(folder).embedding:
        np.memmap(folder / name, np.uint8, "r+")[:] = 0


# what is damaged -> how; of one rank where nothing else is said
DAMAGES: dict[str, Callable[[Path], None]] = {
    "a weight file zeroed": a_file_zeroed,
    "the file of another layer": a_file_of_another_layer,
    "two ranks' files swapped": ranks_swapped,
    "one matrix's rows permuted": rows_permuted,
    "one scale doubled": a_scale_doubled,
    "a bit in a scale's exponent": a_scale_with_another_exponent,
    "the highest bit of one weight": a_high_bit,
    "a norm zeroed, all ranks": a_norm_zeroed,
    "a bit in a norm's exponent": a_norm_bit,
    "the embedding zeroed": an_embedding_zeroed,
    "keys as values": keys_as_values,
    "a tenth of rope's theta, all ranks": wrong_theta,
    "a norm's epsilon 1, all ranks": another_epsilon,
    "another scale of attention, all ranks": another_scale_of_attention,
}


def damaged(sound: Path, name: str, folder: Path) -> Path:
    """A copy."""
    package = folder / name.replace(" ", "-").replace("'", "").replace(",", "")
    shutil.copytree(sound, package)
    DAMAGES[name](package)
    rehash(package)
    return package


def measure(sound: Path, model: Path, folder: Path, names: list[str]) -> None:
    for name in ["nothing", *names]:
        package = sound if name == "nothing" else damaged(sound, name, folder)
        done = completed("verify", package, model, "--json", timeout=250)
        if not done.stdout:
            print(f"| {name} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
            continue
        found = json.loads(done.stdout)
        numbers = (
            f"{_shown(found['kl'])} / {_shown(found['limits']['max_kl'])}",
            f"{found['top1']:.3f} / {found['limits']['min_top1']:.3f}",
            f"{_shown(found['perplexity_ratio'])}",
            ", ".join(f"{_shown(of_kind['worst'])} {of_kind['kind']}" for of_kind in found.get("weights", [])),
            _worst_part(found["parts"]),
            "; ".join(text[:60] for text in found["failed"]),
        )
        print(f"| {name} | {' | '.join(numbers)} |", flush=True)
        if package != sound:
            shutil.rmtree(package)


def _worst_part(parts: list[dict]) -> str:
    read = [PartAgreement(**numbers(part, PartAgreement)) for part in parts]
    part = farthest_part(read)
    return f"{part.own:.2g} where rounding is {part.rounding:.2g}" if part else ""


def _shown(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.2g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("package", "model", "folder"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("names", nargs="*", default=list(DAMAGES))
    given = parser.parse_args()
    measure(given.package, given.model, given.folder, given.names)
