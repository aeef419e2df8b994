"""A model that a function of the user's builds: MODULE:FUNCTION in the place of MODEL.

In: such a name. Out: a folder in the cache, as Hugging Face's are: config.json, which names the
function, and its weights as safetensors. The function gives the module and example inputs, by the
names of its `forward`:

    def make():
        return Net(), {"x": torch.zeros(1, 3, 32, 32)}

Invariant: another text of the file that defines the function is another folder.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsplit.cache_folder import cache
from mpsplit.errors import ModelError

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
KEY = "factory"  # in config.json


def is_factory(model: str) -> bool:
    return bool(NAME.fullmatch(model)) and not Path(model).exists()


def made_by(model: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    import torch

    function = _function(model)
    try:
        made = function()
    except Exception as wrong:  # it is the user's, and may raise anything
        raise ModelError(f"{model} raised {type(wrong).__name__}: {str(wrong)[:200]}") from None
    fits = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)
    if not fits or not isinstance(made[1], dict) or not all(map(torch.is_tensor, made[1].values())):
        raise ModelError(f"{model} must give a module and a dict of example tensors, by the names of its inputs")
    return made[0].eval(), made[1]


def factory_folder(model: str) -> Path:
    """Made if it is not there."""
    from safetensors.torch import save_model

    source = getattr(sys.modules.get(_function(model).__module__), "__file__", None)
    text = Path(source).read_bytes() if source else b""
    folder = cache() / "factories" / hashlib.sha256(f"{model}\n{source}\n".encode() + text).hexdigest()[:16]
    if not folder.is_dir():
        module, _ = made_by(model)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        save_model(module, str(partial / "model.safetensors"))
        config = {"architectures": [type(module).__name__], KEY: model}
        (partial / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            os.replace(partial, folder)
        except OSError:  # another rank was faster
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _function(model: str) -> Any:
    name, _, function = model.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it
    try:
        found = getattr(importlib.import_module(name), function, None)
    except ImportError as wrong:
        raise ModelError(f"{model}: {name} cannot be imported ({wrong}); is it in this folder or PYTHONPATH?") from None
    if not callable(found):
        raise ModelError(f"{model}: {name} has no function {function}")
    return found
