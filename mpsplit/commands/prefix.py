"""`mpsplit prefix`: texts that many prompts begin with, computed once and kept in the package.

In: a text. Out: a folder in the package, which --prefix names (options/prefix_option.py). A prefix
is a system message, or as it stands what comes before a raw prompt; its tokens are those that
prompts with it really begin with.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.comm import mpi_rank
from mpsplit.errors import RunError
from mpsplit.options.loop_options import add_chunk, add_engine, add_kv, lead
from mpsplit.options.package_argument import add_keys, package_for_ranks
from mpsplit.options.rank_options import add_ranks, on_ranks
from mpsplit.package.manifest import Manifest
from mpsplit.package.together.folder_lock import FolderLock
from mpsplit.runtime.engine.pages import common
from mpsplit.runtime.kept.kept_texts import (
    PREFIXES,
    KeptText,
    Unusable,
    folder_of,
    forget_on_this_host,
    names,
    weights_id,
)

ACTIONS = ("add", "list", "remove")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=ACTIONS)
    add("package", metavar="PACKAGE", help="the directory that convert finished")
    add("--name", help="what it is called")
    add("--text-file", metavar="FILE", help="the text of a system message")
    add("--raw", action="store_true", help="it comes before raw prompts instead, without the chat template")
    add_ranks(parser)
    add_keys(parser)
    add_engine(parser)
    add_chunk(parser)
    add_kv(parser)


def prefix_command(args: argparse.Namespace) -> int:
    if args.action == "add":
        return _add(args)
    # one rank of an mpirun does it
    return 0 if mpi_rank() else {"list": _list, "remove": _remove}[args.action](args)


def _add(args: argparse.Namespace) -> int:
    if not args.name or not args.text_file:
        raise RunError("prefix add needs --name NAME and --text-file FILE")
    folder, package = folder_of(PREFIXES, args.name), Path(args.package)
    manifest = package_for_ranks(args)
    try:
        text = Path(args.text_file).read_text(encoding="utf-8") if not mpi_rank() else ""
    except (OSError, UnicodeDecodeError) as wrong:
        raise RunError(f"--text-file {args.text_file} cannot be read ({wrong})") from None
    if (code := on_ranks(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.runtime.loop.loop_protocol import Request

    loop = lead(args)
    if loop is None:
        return 0
    tokens = _tokens(loop.text, text, args.raw)
    began = time.perf_counter()
    made = loop.generate(Request(tokens, 1, saves=folder, about={"text": text, "raw": args.raw}))
    loop.end()
    if made.unsaved:
        raise RunError(made.unsaved)
    size = sum(path.stat().st_size for path in (package / folder).iterdir())
    seconds = time.perf_counter() - began
    print(f"{args.name}: {len(tokens)} tokens, {size / 2**20:.1f} MiB on this host, computed in {seconds:.1f} s")
    print(f'next: mpsplit run {package} --prefix {args.name} {"--raw " if args.raw else ""}--prompt "..."')
    return 0


def _tokens(text, prefix: str, raw: bool) -> tuple[int, ...]:
    """What prompts with it begin with, whatever follows."""
    if text is None:
        raise RunError("this package has no tokenizer, so it has no texts to begin with")
    if raw:
        return tuple(text.raw(prefix))
    with_letter, with_digit = (
        text.chat([{"role": "system", "content": prefix}, {"role": "user", "content": question}]) for question in "a1"
    )
    return tuple(with_letter[: common(with_letter, with_digit)])


def _list(args: argparse.Namespace) -> int:
    package, own_id = Path(args.package), weights_id(Manifest.load(Path(args.package)))
    for name in names(package, PREFIXES):
        try:
            kept = KeptText.read(package, folder_of(PREFIXES, name))
        except Unusable as wrong:
            print(f"{name}: {wrong}")
            continue
        kind = "raw" if kept.about.get("raw") else "system message"
        fits = "" if kept.whose == own_id else ", of other weights: make it again"
        print(f"{name}: {len(kept.tokens)} tokens, {kind}, {kept.stored}{fits}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    folder, package = folder_of(PREFIXES, args.name or ""), Path(args.package)
    if args.name not in (there := names(package, PREFIXES)):
        raise RunError(f"{package} has no {args.name} among its prefixes; there are: {', '.join(there) or 'none'}")
    lock = FolderLock(package / PREFIXES)
    forget_on_this_host(package, folder)
    lock.release()
    print(f"removed {folder} from {args.package} on this host")
    return 0
