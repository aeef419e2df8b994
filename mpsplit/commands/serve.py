"""`mpsplit serve`: from arguments to a server and to its end.

In: a package, an address. Out: an exit code, 0 when all was answered.

Rank 0 listens before anything is loaded, so that an address which cannot be had ends the ranks at
once; the others follow it.
"""

from __future__ import annotations

import argparse
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpsplit.comm import mpi_rank
from mpsplit.commands.staged.staged_serve import follow_stages, ranks_of_stages, text_service
from mpsplit.errors import RunError
from mpsplit.mpirun import WATCHED, say_ready
from mpsplit.options.loop_options import add_leading, lead
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.package_argument import add_package, package_for_ranks
from mpsplit.options.rank_options import add_launcher, add_ranks, on_ranks, run_on_ranks, take_threads
from mpsplit.options.settings_options import layers_of
from mpsplit.package.stages.stage_manifest import is_pipeline
from mpsplit.runtime.engine.pages import UNUSED
from mpsplit.runtime.kept.session_counts import KeptLimits
from mpsplit.runtime.talk.answer_settings import merged
from mpsplit.starting_again import keep_running

MIB = 2**20
NEEDED = ("fastapi", "uvicorn", "llguidance", "prometheus_client")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_ranks(parser)
    add_launcher(parser)
    add_leading(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="another one than this machine's own needs an API key (default: 127.0.0.1)")
    add("--port", type=int, default=8000, metavar="N", help="0 takes a free one, and says which (default: 8000)")
    add("--api-key-file", metavar="FILE", help="keys that may call, one a line (default: the one of MPSPLIT_API_KEY)")
    add(
        "--share-prefixes",
        action="store_true",
        help="a key finds what others computed of the same beginning: faster, and it can tell that they asked it",
    )
    add("--model-name", metavar="NAME", help="what clients call the model (default: the package's folder)")
    add("--context", type=int, metavar="N", help="tokens of a prompt and its answer (default: the model's)")
    add("--cache", type=int, metavar="N", help="tokens of all requests together (default: the model's context)")
    add(
        "--cache-unused",
        type=float,
        default=UNUSED,
        metavar="S",
        help=f"seconds after which the cache gives up what nobody used, and its memory (default: {UNUSED:.0f})",
    )
    add("--max-concurrent", type=int, default=8, metavar="N", help="requests answered at once (default: 8)")
    add("--max-waiting", type=int, default=64, metavar="N", help="requests that may wait for a place (default: 64)")
    most = KeptLimits()
    add(
        "--session-ttl",
        type=float,
        default=most.seconds,
        metavar="S",
        help=f"seconds that a session is kept after its last request (default: {most.seconds:.0f})",
    )
    add(
        "--sessions-per-key",
        type=int,
        default=most.sessions,
        metavar="N",
        help=f"sessions kept for one API key, or for all who call without one (default: {most.sessions})",
    )
    add(
        "--session-mib",
        type=int,
        default=most.bytes // MIB,
        metavar="MIB",
        help=f"of them, on the disks of all ranks together (default: {most.bytes // MIB})",
    )
    add(
        "--stale-after",
        type=float,
        default=5,
        metavar="S",
        help="seconds of a step after which /health says 503, where others take less (default: 5)",
    )
    add("--restart", action="store_true", help="start the ranks again when one fails, after a pause")
    add("--max-body", type=int, default=4, metavar="MIB", help="of one request (default: 4)")


def serve_command(args: argparse.Namespace) -> int:
    _check_options(args)
    take_threads(args)
    in_stages = is_pipeline(Path(args.package))
    ranks = ranks_of_stages(args) if in_stages else _ranks(args)
    if args.restart and WATCHED not in os.environ:
        return _keep_running(ranks, args)
    if (code := on_ranks(ranks, args, ends_itself=True)) is not None:
        return code
    if mpi_rank():
        # rank 0 hears them too, and says when it is time to go
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if in_stages:
            follow_stages(args)
        else:
            lead(args, **_room(args))
        return 0
    from mpsplit.serve.http import security, serving
    from mpsplit.serve.service.any_service import ServiceLimits

    keys = security.read_keys(Path(args.api_key_file) if args.api_key_file else None)
    sock, address = serving.listen(args.host, args.port)
    with sock:
        given: dict[str, Any] = dict(
            limits=ServiceLimits(
                answers=min(ServiceLimits.answers, args.max_concurrent), body_bytes=args.max_body * MIB
            ),
            keys=keys,
            hosts=security.allowed_hosts(args.host, address, keys),
            stale_seconds=args.stale_after,
        )
        name = args.model_name or Path(args.package).resolve().name
        service, about = text_service(args, name, **given) if in_stages else _token_service(args, name, **given)
        say_ready()
        over = f"{ranks} rank{'s' * (ranks > 1)}"
        print(f"{name} at {serving.url(sock)}, over {over}; {about}; Ctrl-C ends it", flush=True)
        serving.run(service, sock)
    service.loop.end()
    return 0


def _ranks(args: argparse.Namespace) -> int:
    """Of a decoder, when its settings are right."""
    manifest = package_for_ranks(args)
    if (args.context or 0) > (most := manifest.facts.context):
        raise RunError(
            f"--context {args.context} is more than the {most} tokens of {args.package}; give {most} or less"
        )
    merged(*layers_of(args))  # refuses before the work
    return manifest.plan.ranks


def _room(args: argparse.Namespace) -> dict[str, Any]:
    return dict(cache=args.cache, most=args.max_concurrent, waiting=args.max_waiting)


def _token_service(args: argparse.Namespace, name: str, **given: Any) -> tuple[Any, str]:
    """A decoder's on rank 0, and what is said of it; `given`: fields of every service."""
    from mpsplit.serve.service.service import Service

    loop = lead(args, **_room(args))
    assert loop, "rank 0 leads"
    loop.unused_seconds = args.cache_unused
    loop.on_disk.keep_within(KeptLimits(args.sessions_per_key, args.session_mib * MIB, args.session_ttl))
    service = Service(loop, name, layers_of(args), args.context, share_prefixes=args.share_prefixes, **given)
    load = loop.load()
    return service, f"cache: {load.pages * load.page_tokens:,} tokens in {load.pages:,} pages"


def _keep_running(ranks: int, args: argparse.Namespace) -> int:
    if mpi_rank() is not None:
        raise RunError(
            f"--restart starts the ranks by itself; leave mpirun out: mpsplit serve {args.package} --restart"
        )
    given = [word for word in args.given if word != "--restart"]
    os.environ[WATCHED] = "1"
    return keep_running(lambda: run_on_ranks(ranks, given, args, ends_itself=True))


def _check_options(args: argparse.Namespace) -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RunError(f"serve needs {', '.join(missing)}, not installed here; run `pip install 'mpsplit[serve]'`")
    counts = ("context", "cache", "max_concurrent", "max_waiting", "max_body", "sessions_per_key", "session_mib")
    at_least_one(args, *counts)
    if not 0 <= args.port < 65536:
        raise RunError(f"--port {args.port} is out of range; it must be 0 (any free one) to 65535")
