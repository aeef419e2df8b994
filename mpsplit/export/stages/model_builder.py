"""A model without bytes, and what it is called with.

In: a Hugging Face directory. Out: a Subject: the module, example inputs by name, and which of
their axes grow.

Parameters are memory that nobody touches, so they take none. Buffers that the module computes
itself, such as positions, are real.

Invariant: an example's length is a number that no size of the model equals, so that it cannot hide
in a constant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from mpsplit.errors import ModelError, MpsplitError
from mpsplit.export.model.factory_folder import KEY as FACTORY
from mpsplit.export.model.factory_folder import made_by
from mpsplit.export.model.model_source import read_config
from mpsplit.package.stages.image_settings import image_size_of

LENGTHS = (53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 29, 31, 37, 41, 43, 47, 11, 13, 17, 19, 23)
SYMBOL = "length"
SHORTEST = 2
COUNTED = "create_position_ids_from_input_ids"  # what those models call it
IMAGE, TEXT, SOUND = "pixel_values", "input_ids", "input_features"


@dataclass(frozen=True)
class Subject:
    """`inputs`: by the names of the model's own `forward`. `growing`: the axis of each that has the
    length, for those that have it; `longest`: how long it may get. `whole`: the model that the
    module is a part of, under the name `prefix` says."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    growing: dict[str, int]
    longest: int = 0
    whole: nn.Module | None = None
    prefix: str = ""

    @property
    def length(self) -> int:
        """That of the example; 0 where nothing grows."""
        return next((self.inputs[name].shape[axis] for name, axis in self.growing.items()), 0)


class _EmptyOnMeta(TorchFunctionMode):
    """What torch.empty makes, as parameters are made before they are filled, has no bytes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(folder: Path, length: int | None = None) -> Subject:
    """`length`: fixes that of texts."""
    if factory := read_config(folder).get(FACTORY):
        module, inputs = made_by(factory)
        return Subject(without_bytes(lambda: module), inputs, {})
    config = config_of(folder)
    try:
        whole = without_bytes(lambda: _class_of(config)._from_config(config))
    except MpsplitError:
        raise
    except Exception as wrong:  # each class has its own way to say what its config lacks
        name = (config.architectures or [config.model_type])[0]
        raise ModelError(
            f"{folder}: transformers cannot build {name} of its config.json ({_line(wrong)}); are they of one model?"
        ) from None
    module = _part(whole)
    name = module.main_input_name
    if name not in EXAMPLES:
        raise ModelError(f"{type(module).__name__} takes {name}; stages know {', '.join(EXAMPLES)}")
    subject = EXAMPLES[name](module, folder, length)
    path = next(path for path, part in whole.named_modules() if part is module)
    return replace(subject, whole=whole, prefix=f"{path}." if path else "")


def _part(whole: Any) -> Any:
    """What becomes stages: of an encoder with a decoder, the encoder."""
    if hasattr(whole.config, "use_cache"):
        whole.config.use_cache = False
    return whole.get_encoder() if getattr(whole.config, "is_encoder_decoder", False) else whole


def config_of(folder: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, OSError) as wrong:
        raise ModelError(f"transformers {transformers.__version__} cannot read {folder} ({_line(wrong)})") from None


def _line(wrong: Exception) -> str:
    return (str(wrong).strip().splitlines() or [type(wrong).__name__])[0][:200]


def original(folder: Path) -> Any:
    """The same module with its weights, as transformers loads it."""
    if factory := read_config(folder).get(FACTORY):
        return made_by(factory)[0]
    config = config_of(folder)
    return _part(_class_of(config).from_pretrained(folder, dtype=torch.float32).eval())


def without_bytes(make: Callable[[], nn.Module]) -> nn.Module:
    """The module, each of its parameters in float32 in memory that nobody has touched."""
    with _EmptyOnMeta(), torch.no_grad():
        module = make().eval()
    known: dict[int, nn.Parameter] = {}  # tied parameters stay one
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in known:
                    known[id(parameter)] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
                part._parameters[name] = known[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return module


def _class_of(config: PreTrainedConfig) -> Any:
    for name in config.architectures or ():
        if found := getattr(transformers, name, None):
            return found
    try:
        return AutoModel._model_mapping[type(config)]
    except KeyError:
        raise ModelError(
            f"transformers {transformers.__version__} builds no {config.model_type}; name another model, or a"
            " module:factory"
        ) from None


def _image(module: Any, folder: Path, length: int | None) -> Subject:
    own = module.config
    size = getattr(own, "image_size", None) or image_size_of(folder)
    height, width = (size, size) if isinstance(size, int) else size
    return Subject(module, {IMAGE: torch.zeros(1, getattr(own, "num_channels", 3), height, width)}, {})


def _text(module: Any, folder: Path, length: int | None) -> Subject:
    own = module.config
    longest = getattr(own, "max_position_embeddings", None) or getattr(own, "n_positions", None) or 512
    longest -= _count_positions_plainly(module)
    if length and not 1 <= length <= longest:
        raise ModelError(f"--length {length} is out of range; the model has room for 1 to {longest} tokens")
    taken = {value for value in own.to_dict().values() if isinstance(value, int)}
    example = length or next((n for n in LENGTHS if n not in taken and n <= longest), longest)
    inputs = {TEXT: torch.zeros(1, example, dtype=torch.long)}
    if getattr(own, "type_vocab_size", 0) > 1 and "token_type_ids" in inspect.signature(module.forward).parameters:
        inputs["token_type_ids"] = torch.zeros(1, example, dtype=torch.long)
    return Subject(module, inputs, {} if length else dict.fromkeys(inputs, 1), longest)


def _count_positions_plainly(module: nn.Module) -> int:
    """RoBERTa and its kin count the tokens that are no padding, from the padding's number on. An
    input of stages has no padding, so all are counted. Out: how many positions are never used."""
    left_out = 0
    for part in module.modules():
        if hasattr(part, COUNTED):
            object.__setattr__(part, COUNTED, _plain_positions)
            left_out = int(part.padding_idx) + 1
    return left_out


def _plain_positions(ids: torch.Tensor, padding: int, past: int = 0) -> torch.Tensor:
    return torch.arange(padding + 1, padding + 1 + ids.shape[1]).unsqueeze(0)


def _sound(module: Any, folder: Path, length: int | None) -> Subject:
    own = module.config
    return Subject(module, {SOUND: torch.zeros(1, own.num_mel_bins, 2 * own.max_source_positions)}, {})


EXAMPLES = {IMAGE: _image, TEXT: _text, SOUND: _sound}
