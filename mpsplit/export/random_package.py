"""Models of a known shape with weights that mean nothing, for measurements.

In: the name of a shape. Out: a package in the cache. The checkpoint goes the way of every other:
safetensors, partition, convert. Both stay in CACHE/bench, so a second run starts at once.

Invariant: a package is made anew when what makes it has changed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import mpsplit
from mpsplit.cache_folder import cache
from mpsplit.errors import ConvertError, PackageError
from mpsplit.export.model.model_source import read_config
from mpsplit.export.model.named_shapes import Shape, find_shape
from mpsplit.export.model.random_weights import write_safetensors
from mpsplit.leash import end_with_parent
from mpsplit.native import cpp
from mpsplit.package.manifest import MANIFEST
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.package_lock import held
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan
from mpsplit.progress import track

MAKERS = ("plan", "export", "package")  # the parts of mpsplit that decide what is in a package


def folder() -> Path:
    return cache() / "bench"


def package_path(name: str, ranks: int, how: Quantisation) -> Path:
    stored = f"{how.kind}-{how.block}" if how.bits else "f32"
    return folder() / f"{name}-{ranks}x{stored}-{_makers()}"


def random_package(name: str, ranks: int, how: Quantisation) -> Path:
    """The package of this shape, made if it is not there."""
    find_shape(name)
    path = package_path(name, ranks, how)
    if how.bits:
        cpp.kernels()  # says now what would be missing at the very end
    if not (path / MANIFEST).is_file():
        began = time.perf_counter()
        print(f"making {name} for {ranks} rank{'s' * (ranks > 1)} in {path}, once", file=sys.stderr, flush=True)
        # in a process of its own: what it takes must not count as what running takes
        try:
            with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as another:
                another.submit(_make_package, name, ranks, how, path).result()
        except BrokenProcessPool:
            raise ConvertError(
                f"making {name} was ended from outside; is there memory left? Try a smaller shape"
            ) from None
        print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return path


def random_checkpoint(
    name: str, dtype: str = "bfloat16", layers: int | None = None, within: Path | None = None
) -> Path:
    """A Hugging Face directory of this shape, maybe with another number of layers, one file a
    layer, made if it is not there."""
    shape = find_shape(name)
    shape = replace(shape, layers=layers or shape.layers)
    named = "-".join([name, *([dtype] if dtype != "bfloat16" else []), *([f"{layers}-layers"] if layers else [])])
    path = (within or folder()) / named
    # the shape was another one then
    if path.is_dir() and not shape.config().items() <= read_config(path).items():
        shutil.rmtree(path)
    if not path.is_dir():
        with _whole(path) as partial:
            _write_checkpoint(shape, named, partial, dtype)
    return path


def _make_package(name: str, ranks: int, how: Quantisation, path: Path) -> None:
    """All ranks one after the other: the memory of one slice, and no MPI."""
    from mpsplit.comm import Alone
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.export.partition import partition

    checkpoint = random_checkpoint(name)
    plan = even_plan(ModelFacts.from_config(read_config(checkpoint)), ranks, 1)
    hidden = path.with_name(f".{path.name}.partial")
    hidden.mkdir(parents=True, exist_ok=True)
    with held(hidden, "made", writes=True):
        partial = hidden / path.name
        shutil.rmtree(partial, ignore_errors=True)  # of one that died
        partition(checkpoint, plan, partial, Alone())
        convert(partial, Alone(), find_pnnx(), Recipe(how))
        os.replace(partial, path)
    hidden.rmdir()
    for old in path.parent.glob(f"{path.name.removesuffix(_makers())}*"):
        if old != path:
            with suppress(PackageError), held(old, "removed", writes=True):  # or somebody runs it
                shutil.rmtree(old, ignore_errors=True)


def _write_checkpoint(shape: Shape, name: str, out: Path, dtype: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from mpsplit.export.trace.slicing import build_whole, expected_weights

    config = AutoConfig.for_model(shape.family, **shape.config(), dtype=dtype)
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.save_pretrained(out)
    weights = expected_weights(build_whole(out), ModelFacts.from_config(read_config(out)))
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for weight, weight_shape in weights.items():
        words = weight.split(".")
        files.setdefault(f"layer-{words[2]}" if words[1] == "layers" else words[-2], {})[weight] = weight_shape
    weight_map: dict[str, str] = {}
    for part, shapes in track(list(files.items()), f"weights of {name}"):
        file = f"model-{part}.safetensors"
        write_safetensors(out / file, shapes, dtype)
        weight_map |= dict.fromkeys(shapes, file)
    total_size = 2 * sum(math.prod(shape) for shape in weights.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@contextmanager
def _whole(path: Path):
    """Gives an empty folder to fill beside `path`, of the same name; it becomes `path` when the
    block ends well."""
    hidden = path.with_name(f".{os.getpid()}.partial")
    partial = hidden / path.name
    try:
        partial.mkdir(parents=True)
        yield partial
        if not path.is_dir():  # another run was faster
            os.replace(partial, path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@functools.cache
def _makers() -> str:
    """Changes when a package made today would not be the one made before."""
    digest = hashlib.sha256()
    root = Path(mpsplit.__file__).parent
    for path in sorted(path for part in MAKERS for path in (root / part).rglob("*.py")):
        if path != Path(__file__):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
