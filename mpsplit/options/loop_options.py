"""The token loop over a package: --engine, --chunk, --kv, --threads.

In: arguments, on every rank. Out: the loop on rank 0, which leads; the others follow.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mpsplit.comm import world
from mpsplit.options.package_argument import add_keys, hold_package, keys_of
from mpsplit.options.rank_options import add_threads
from mpsplit.options.settings_options import add_settings
from mpsplit.runtime.engine.engine_protocol import CACHES

if TYPE_CHECKING:  # they need ncnn, which no --help waits for
    from mpsplit.runtime.engine.dump import Dump
    from mpsplit.runtime.loop.token_loop import TokenLoop

ENGINES = {"native": "C++, the default where it is built", "stock": "the ncnn wheel"}


def add_engine(parser: argparse.ArgumentParser, engines: dict[str, str] = ENGINES) -> None:
    parser.add_argument("--engine", choices=tuple(engines), help="; ".join(f"{k}: {v}" for k, v in engines.items()))


def add_chunk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunk", type=int, default=128, metavar="N", help="prompt tokens a step (default: 128)")


def add_kv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kv", choices=CACHES, default=CACHES[0], help=f"how keys and values are stored (default: {CACHES[0]})"
    )


def add_leading(parser: argparse.ArgumentParser) -> None:
    """What every command takes that answers."""
    add_keys(parser)
    add_engine(parser)
    add_settings(parser)
    add_chunk(parser)
    add_kv(parser)
    add_threads(parser)


def lead(
    args: argparse.Namespace, dump: Dump | None = None, cache: int | None = None, **places: int
) -> TokenLoop | None:
    """The loop on rank 0, with a cache of `cache` tokens or else of one context. The other ranks
    follow it here until it ends, and get None. `places`: how many requests run and wait, as
    load_loop has them."""
    from mpsplit.runtime.load import load_loop

    comm = world()
    hold_package(args)
    loop = load_loop(Path(args.package), comm, args.chunk, args.engine, dump, keys_of(args), **places)
    if comm.rank:
        loop.follow()
        return None
    if cache or args.kv != CACHES[0]:
        loop.reserve(cache or loop.facts.context, args.kv)
    return loop
