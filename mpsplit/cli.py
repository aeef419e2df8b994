"""The command line: it parses, one function works. Commands that need ranks start themselves under mpirun when they are not.

In: arguments. Out: an exit code: 0 done, 1 `verify` found a difference or `doctor` a fault, 2 something the user can mend.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from mpsplit import __version__, launch
from mpsplit.comm import end_all_ranks, mpi_rank, mpi_size, world
from mpsplit.errors import MpsplitError, PlanError, RunError
from mpsplit.package.manifest import PARTITION, Manifest
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Plan, even_plan


class UsageError(MpsplitError):
    """The arguments do not parse."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see `{self.prog} --help`")


# -- commands: each takes the parsed arguments and returns an exit code ------------------------------------------------------


def plan_command(args: argparse.Namespace) -> int:
    from mpsplit.export.source import find_model

    plan, facts = _plan_for(args, find_model(args.model), None)
    text = json.dumps(plan.to_json(), indent=1) + "\n"
    if args.out:
        Path(args.out).write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    for shard in plan.shards:
        print(
            f"rank {shard.rank}: stage {shard.stage}, layers {shard.layers}, heads {shard.heads}, MLP {shard.mlp}, "
            f"embedding {shard.embed}, head {shard.head}",
            file=sys.stderr,
        )
    return 0


def partition_command(args: argparse.Namespace) -> int:
    from mpsplit.export.source import find_model

    folder = find_model(args.model)
    plan, _ = _plan_for(args, folder, _started_ranks(args))
    if not args.serial and (code := _under_mpirun(plan.ranks, args)) is not None:
        return code
    from mpsplit.export.partition import partition

    comm = world()
    if comm.size not in (1, plan.ranks):
        raise PlanError(f"the plan has {plan.ranks} ranks, {comm.size} were started; use `mpirun -np {plan.ranks}`")
    began = time.perf_counter()
    manifest = partition(folder, plan, Path(args.out), comm, args.form)
    if comm.rank == 0:
        for rank, part in enumerate(manifest.ranks):
            print(f"rank {rank}: read {part.weight_bytes:,} bytes, {len(part.schedule)} collectives")
        if manifest.unused:
            print(f"not used of the checkpoint: {', '.join(manifest.unused)}")
        print(f"partitioned into {args.out} in {time.perf_counter() - began:.1f} s; next: mpsplit convert {args.out}")
    return 0


def convert_command(args: argparse.Namespace) -> int:
    package = Path(args.package)
    partition = Manifest.load(package, PARTITION)
    ranks = partition.plan.ranks
    started = _started_ranks(args)
    if started not in (None, ranks):
        raise PlanError(
            f"{package} was partitioned for {ranks} ranks, {started} were started; use `mpirun -np {ranks}`"
        )
    from mpsplit.export.convert import convert
    from mpsplit.export.pnnx import find_pnnx

    pnnx = find_pnnx(args.pnnx, args.customop)
    if not args.serial and (code := _under_mpirun(ranks, args)) is not None:
        return code
    comm = world()
    began = time.perf_counter()
    manifest = convert(package, comm, pnnx)
    if comm.rank == 0:
        for part in manifest.ranks:
            print(", ".join(f"{file.path} {file.size:,} bytes" for file in part.files))
        print(f"converted {package} in {time.perf_counter() - began:.1f} s; next: mpsplit run {package} --prompt Hello")
    return 0


def run_command(args: argparse.Namespace) -> int:
    manifest = _package_for_ranks(args)
    if (code := _under_mpirun(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.runtime.generate import Request
    from mpsplit.runtime.load import load_loop

    comm = world()
    loop = load_loop(Path(args.package), comm, args.chunk)
    if comm.rank != 0:
        loop.follow()
        return 0
    request = Request(
        _prompt_ids(args, loop.text), args.max_new_tokens, _sampling(args), tuple(args.stop), args.ignore_eos
    )
    show = (lambda piece: None) if args.json else _print_now
    result = loop.generate(request, show)
    loop.end()
    if args.json:
        print(json.dumps(asdict(result), ensure_ascii=False))
        return 0
    if result.text is None:
        print(",".join(map(str, result.token_ids)))
    print(f"\n[{result.finish_reason}; {result.stats}]", file=sys.stderr)
    return 0


def chat_command(args: argparse.Namespace) -> int:
    manifest = _package_for_ranks(args)
    if (code := _under_mpirun(manifest.plan.ranks, args, reads_input=True)) is not None:
        return code
    from mpsplit.runtime.load import load_loop
    from mpsplit.serve.chat import Conversation, chat

    comm = world()
    loop = load_loop(Path(args.package), comm, args.chunk)
    if comm.rank != 0:
        loop.follow()
        return 0
    chat(Conversation(loop, _sampling(args), args.max_new_tokens), launch.input_lines())
    loop.end()
    return 0


def inspect_command(args: argparse.Namespace) -> int:
    from mpsplit import inspection

    manifest = Manifest.load(Path(args.package))
    if args.json:
        print(json.dumps(inspection.describe(manifest), indent=1, ensure_ascii=False))
    else:
        inspection.show(manifest)
    return 0


def verify_command(args: argparse.Namespace) -> int:
    from mpsplit.export.source import find_model

    manifest = _package_for_ranks(args)
    folder = find_model(args.model)
    if (code := _under_mpirun(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.runtime.load import load_loop
    from mpsplit.verification import verify

    comm = world()
    found = verify(load_loop(Path(args.package), comm), comm, folder)
    fine = found is None or found.within(args.tolerance)
    if found and args.json:
        print(json.dumps(asdict(found) | {"tolerance": args.tolerance, "same": fine}))
    elif found:
        print(
            f"{'the same' if fine else 'DIFFERENT'}: logits at most {found.max_abs:.2e} apart over {found.positions} positions "
            f"(tolerance {args.tolerance:g}), KL {found.kl:.2e}, top-1 {found.top1:.1%}, greedy tokens {found.greedy:.1%} equal"
        )
    return comm.exchange(int(not fine))[0]


def doctor_command(args: argparse.Namespace) -> int:
    from mpsplit import doctor

    findings = doctor.examine()
    if args.json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        doctor.show(findings)
    return int(not all(f.fine for f in findings if f.need != "build"))


# -- what several commands share ---------------------------------------------------------------------------------------------


def _started_ranks(args: argparse.Namespace) -> int | None:
    """How many ranks the user asked for by mpirun or --ranks; None for neither."""
    return args.ranks if mpi_rank() is None else mpi_size()


def _under_mpirun(ranks: int, args: argparse.Namespace, reads_input: bool = False) -> int | None:
    """The exit code of this command started again on `ranks` ranks; None when it runs in the right place already."""
    if ranks == 1 or mpi_rank() is not None:
        return None
    return launch.start(ranks, args.given, args.hostfile, reads_input)


def _plan_for(args: argparse.Namespace, folder: Path, started: int | None) -> tuple[Plan, ModelFacts]:
    from mpsplit.export.source import read_config

    facts = ModelFacts.from_config(read_config(folder))
    if getattr(args, "plan", None):
        return Plan.load(Path(args.plan)).check(facts), facts
    ranks = started or getattr(args, "ranks", None)
    if not (ranks or args.tensor or args.pipeline):
        raise PlanError("over how many ranks? give --ranks N, or --tensor T and --pipeline P, or --plan FILE")
    pipeline = args.pipeline or (1 if not (args.tensor and ranks) else max(1, ranks // args.tensor))
    tensor = args.tensor or max(1, (ranks or pipeline) // pipeline)
    if ranks and tensor * pipeline != ranks:
        raise PlanError(
            f"--tensor {tensor} x --pipeline {pipeline} makes {tensor * pipeline} ranks, {ranks} were asked for"
        )
    return even_plan(facts, tensor, pipeline), facts


def _package_for_ranks(args: argparse.Namespace) -> Manifest:
    from mpsplit.runtime.load import check_ranks

    package = Path(args.package)
    manifest = Manifest.load(package)
    if (started := _started_ranks(args)) is not None:
        check_ranks(manifest, package, started)
    return manifest


def _prompt_ids(args: argparse.Namespace, text) -> tuple[int, ...]:
    if args.prompt_ids is not None:
        try:
            return tuple(int(word) for word in args.prompt_ids.split(","))
        except ValueError:
            raise RunError(
                f"--prompt-ids {args.prompt_ids!r} must be numbers with commas between, such as 1,2,3"
            ) from None
    if text is None:
        raise RunError("this package has no tokenizer; give --prompt-ids 1,2,3 instead of --prompt")
    return tuple(text.raw(args.prompt) if args.raw else text.chat([{"role": "user", "content": args.prompt}]))


def _sampling(args: argparse.Namespace):
    from mpsplit.runtime.sampling import Sampling

    return Sampling(
        args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.penalty_window, args.seed
    ).check()


def _print_now(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


# -- the parser --------------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mpsplit", description="Take a Vicuna-class model apart so that several machines can run it together."
    )
    parser.add_argument("--version", action="version", version=f"mpsplit {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, function, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=function)
        sub.add_argument(
            "--log", default="warning", choices=("debug", "info", "warning"), help="how much to say (default: warning)"
        )
        return sub

    p = command(
        "plan", plan_command, "Decide who owns what.", "mpsplit plan MODEL --tensor 2 --pipeline 1 --out plan.json"
    )
    _add_model(p)
    _add_shape(p)
    p.add_argument("--ranks", type=int, help="number of ranks")
    p.add_argument("--out", help="file to write (default: standard output)")

    p = command(
        "partition",
        partition_command,
        "Cut and trace the model, every rank its own slice.",
        "mpirun -np 2 mpsplit partition MODEL --out build/vicuna",
    )
    _add_model(p)
    _add_shape(p)
    _add_ranks(p)
    p.add_argument("--plan", help="a plan.json instead of --tensor and --pipeline")
    p.add_argument("--out", required=True, help="the package's directory")
    p.add_argument("--serial", action="store_true", help="all ranks one after the other in this process, without MPI")
    p.add_argument(
        "--form",
        choices=("module", "operator"),
        default="module",
        help="how collectives stand in the .pt file; operator is for --customop",
    )

    p = command(
        "convert", convert_command, "Convert the traced slices to ncnn.", "mpirun -np 2 mpsplit convert build/vicuna"
    )
    _add_package(p)
    _add_ranks(p)
    p.add_argument("--serial", action="store_true", help="all ranks one after the other in this process, without MPI")
    p.add_argument("--pnnx", metavar="PATH", help="another pnnx than the installed one")
    p.add_argument("--customop", metavar="LIB", help="operator library, for a pnnx built against the same libtorch")

    p = command("run", run_command, "Answer one prompt.", 'mpirun -np 2 mpsplit run build/vicuna --prompt "Hello"')
    _add_package(p)
    _add_ranks(p)
    prompt = p.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text, put through the chat template")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", help="token ids, for models without a tokenizer")
    p.add_argument("--raw", action="store_true", help="take --prompt as it stands, without the chat template")
    p.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text (may be repeated)"
    )
    p.add_argument("--ignore-eos", action="store_true", help="go on after the end of the answer, for measurements")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    _add_sampling(p)

    p = command("chat", chat_command, "Talk to it.", "mpirun -np 2 mpsplit chat build/vicuna")
    _add_package(p)
    _add_ranks(p)
    _add_sampling(p)

    p = command("inspect", inspect_command, "Show what a package holds, rank by rank.", "mpsplit inspect build/vicuna")
    _add_package(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = command(
        "verify",
        verify_command,
        "Compare the package with the original model; exit 1 when they differ.",
        "mpsplit verify build/vicuna MODEL",
    )
    _add_package(p)
    _add_model(p)
    _add_ranks(p)
    p.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a logit (default: 1e-3)")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = command(
        "doctor", doctor_command, "Check this machine: what works, what does not, how to mend it.", "mpsplit doctor"
    )
    p.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a local Hugging Face directory, or a hub id")


def _add_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", metavar="PACKAGE", help="the directory that partition made")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensor", type=int, metavar="T", help="ranks that share each layer")
    parser.add_argument("--pipeline", type=int, metavar="P", help="stages that follow each other")


def _add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks to start (not needed under mpirun)")
    parser.add_argument("--hostfile", metavar="FILE", help="Open MPI hostfile to start the ranks on")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, help="choose among the k likeliest, 0 for all (default)")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="choose among the likeliest that make up p (default: 1)"
    )
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1 repeats less (default: 1)")
    parser.add_argument(
        "--penalty-window", type=int, default=0, metavar="N", help="tokens the penalty looks back, 0 for all (default)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="same seed, same answer, at any number of ranks (default: 0)"
    )
    parser.add_argument("--chunk", type=int, default=128, metavar="N", help="prompt tokens a step (default: 128)")


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    try:
        args = build_parser().parse_args(given)
        args.given = given
        logging.basicConfig(level=args.log.upper(), format=f"r{mpi_rank() or 0} | %(message)s")
        return args.command(args)
    except MpsplitError as wrong:
        return _fail(str(wrong), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `mpsplit ... | head` closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        if mpi_rank() is None:
            raise
        return _fail(traceback.format_exc(), 1)


def _fail(message: str, code: int) -> int:
    """One line on the error stream; with peers, the end of all of them. When all ranks fail alike, the first one speaks."""
    rank = mpi_rank()
    if rank is None:
        print(f"mpsplit: {message}", file=sys.stderr)
        return code
    if rank:
        time.sleep(0.5 + 0.01 * rank)
    print(f"mpsplit: rank {rank}: {message}", file=sys.stderr)
    end_all_ranks(code)
