"""`mpsplit run`: one prompt, one answer.

In: a package, a prompt. Out: the answer as it comes, and what it took on the error stream.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from mpsplit.commands.staged.staged_run import run_stages_command
from mpsplit.errors import RunError
from mpsplit.options.loop_options import add_leading, lead
from mpsplit.options.machine_options import add_cluster, placed_of
from mpsplit.options.package_argument import add_package, package_for_ranks, stored_kind
from mpsplit.options.prefix_option import add_prefix, prefix_of
from mpsplit.options.rank_options import add_launcher, add_ranks, on_ranks, take_threads
from mpsplit.options.settings_options import layers_of
from mpsplit.options.stage_options import first_given
from mpsplit.package.stages.stage_manifest import is_pipeline
from mpsplit.runtime.kept.kept_texts import KeptText, text_of
from mpsplit.runtime.talk.answer_settings import Settings, merged


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_ranks(parser)
    add_launcher(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="text, put through the chat template")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", help="token ids, for models without a tokenizer")
    add = parser.add_argument
    add("--image", nargs="+", metavar="FILE", help="of a model in stages: images; several fill the pipeline")
    add("--text", nargs="+", metavar="TEXT", help="of a model in stages: texts")
    add("--query", metavar="TEXT", help="of a cross-encoder: how well each --text answers it")
    add("--tensor", metavar="FILE.npz", help="of a model in stages: arrays by its inputs' names, a row an input")
    add("--out", metavar="FILE.npz", help="of a model in stages: write its outputs there")
    add("--top", type=int, metavar="K", help="of a model in stages: the K best labels (default: 1)")
    add("--repeat", type=int, metavar="N", help="of a model in stages: all inputs N times, for measurements")
    add("--raw", action="store_true", help="take --prompt as it stands, without the chat template")
    add("--ignore-eos", action="store_true", help="go on after the end of the answer, for measurements")
    add("--json", action="store_true", help="print one JSON object")
    add("--dump", metavar="DIR", help="write hidden states, keys and values of each layer and step there, as npz")
    add("--dump-per-rank", action="store_true", help="each rank its own part (default: put together a stage)")
    add(
        "--report",
        action="store_true",
        help="what was predicted beside what was measured, where the time went, what passed between ranks",
    )
    add_cluster(parser)
    add_leading(parser)
    add_prefix(parser)


def run_command(args: argparse.Namespace) -> int:
    from mpsplit.runtime.engine.dump import Dump

    if is_pipeline(Path(args.package)):
        return run_stages_command(args)
    _check_decoder(args)
    take_threads(args)
    manifest = package_for_ranks(args)
    if args.dump_per_rank and not args.dump:
        raise RunError("--dump-per-rank says how, not where; give --dump DIR with it")
    dump = Dump(Path(args.dump), args.dump_per_rank).check() if args.dump else None
    placed = placed_of(args, manifest) if args.report or args.cluster else None
    prefix = prefix_of(args)
    if prefix and args.prompt_ids:
        raise RunError(
            "--prefix is a text before --prompt, and has no place before --prompt-ids; leave one of them out"
        )
    settings, before = _begun_with(prefix, args)
    if (code := on_ranks(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.measure import report
    from mpsplit.runtime.account.account_tables import threads_text
    from mpsplit.runtime.loop.loop_protocol import Request

    loop = lead(args, dump)
    if loop is None:
        return 0
    prompt = _prompt_ids(args, loop.text, settings, before)
    sampling, warm = settings.sampling, prefix.folder if prefix else ""
    request = Request(prompt, settings.max_new_tokens, sampling, settings.stop, args.ignore_eos, warm=warm)
    result = loop.generate(request, (lambda piece: None) if args.json else _print_now)
    loop.end()
    parts = report.parts_of(manifest.facts, result.stats, placed, stored_kind(args), args.chunk) if args.report else []
    if args.json:
        print(json.dumps(result.to_json() | {"report": [asdict(part) for part in parts]}, ensure_ascii=False))
        return 0
    print(",".join(map(str, result.token_ids)) if result.text is None else "", flush=True)
    time.sleep(0.02)  # mpirun carries the two streams side by side: let the answer arrive first
    print(f"[{result.finish_reason}; {result.stats}]", file=sys.stderr)
    if (short := threads_text(result.stats.accounts)) and not args.report:  # which says it too
        print(short, file=sys.stderr)
    if args.report:
        report.show(parts, placed, result.stats.accounts)
    return 0


def _check_decoder(args: argparse.Namespace) -> None:
    """What is said of a model in stages has no meaning here."""
    if given := first_given(args, ("image", "text", "query", "tensor", "out", "top", "repeat")):
        raise RunError(f"{given} is for a model in stages, {args.package} holds a decoder; give --prompt")
    if args.prompt is None and args.prompt_ids is None:
        raise RunError("one of the arguments --prompt --prompt-ids is required; see `mpsplit run --help`")


def _begun_with(prefix: KeptText | None, args: argparse.Namespace) -> tuple[Settings, str]:
    """Settings, and what stands before a raw prompt; before any other, a prefix is the system
    message."""
    layers, text = layers_of(args), text_of(prefix, args.raw) if prefix else ""
    if prefix and not args.raw:
        if merged(*layers).system:
            raise RunError(f"--prefix {args.prefix} is the system message; leave --system out")
        return merged(*layers, {"system": text}), ""
    return merged(*layers), text


def _prompt_ids(args: argparse.Namespace, text, settings: Settings, before: str) -> tuple[int, ...]:
    if args.prompt_ids is not None:
        try:
            return tuple(int(word) for word in args.prompt_ids.split(","))
        except ValueError:
            raise RunError(
                f"--prompt-ids {args.prompt_ids!r} must be numbers with commas between, such as 1,2,3"
            ) from None
    if text is None:
        raise RunError("this package has no tokenizer; give --prompt-ids 1,2,3 instead of --prompt")
    if args.raw:
        return tuple(text.raw(before + args.prompt))
    messages = settings.messages([{"role": "user", "content": args.prompt}])
    return tuple(text.chat(messages, template=settings.template))


def _print_now(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
