"""How answers are to be: --config, and an option for each setting of
runtime/talk/answer_settings.py. In: arguments. Out: two layers of settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpsplit.comm import mpi_rank
from mpsplit.runtime.talk.answer_settings import SETTINGS, TEXTS, Layer, layer, read_config


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Without a default here, for what is not given leaves the word to --config."""
    parser.add_argument("--config", metavar="FILE", help="settings by these names: JSON, or lines NAME = VALUE")
    for name, setting in SETTINGS.items():
        option, action = f"--{name.replace('_', '-')}", "append" if setting.kind is TEXTS else "store"
        parser.add_argument(option, type=setting.kind.read, action=action, metavar=setting.metavar, help=setting.help)


def layers_of(args: argparse.Namespace) -> tuple[Layer, Layer]:
    """Of --config, which rank 0 alone needs to have, and of the command line."""
    wanted = args.config and mpi_rank() in (None, 0)
    given = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    return read_config(Path(args.config)) if wanted else {}, layer(given, "the command line")
