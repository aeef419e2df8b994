"""The command line: it parses, commands.py works.

In: arguments. Out: an exit code: 0 done, 1 `verify` found a difference or `doctor` a fault, 2 something the user can mend.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import traceback

from mpsplit import __version__, commands
from mpsplit.comm import end_all_ranks, mpi_rank
from mpsplit.errors import MpsplitError
from mpsplit.export.shapes import SHAPES
from mpsplit.package.quantisation import BLOCKS, KINDS


class UsageError(MpsplitError):
    """The arguments do not parse."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mpsplit", description="Take a Vicuna-class model apart so that several machines can run it together."
    )
    parser.add_argument("--version", action="version", version=f"mpsplit {__version__}")
    subparsers = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, function, summary: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
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
        "plan",
        commands.plan_command,
        "Decide who owns what.",
        "mpsplit plan MODEL --tensor 2 --pipeline 1 --out plan.json",
    )
    _add_model(p)
    _add_shape(p)
    p.add_argument("--ranks", type=int, help="number of ranks")
    p.add_argument("--out", help="file to write (default: standard output)")

    p = command(
        "partition",
        commands.partition_command,
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
        "convert",
        commands.convert_command,
        "Convert the traced slices to ncnn.",
        "mpirun -np 2 mpsplit convert build/vicuna",
    )
    _add_package(p)
    _add_ranks(p)
    p.add_argument("--serial", action="store_true", help="all ranks one after the other in this process, without MPI")
    p.add_argument("--quant", choices=tuple(KINDS), default="f32", help="bits of the linear weights (default: f32)")
    p.add_argument("--block", type=int, choices=BLOCKS, default=32, help="weights that share a scale (default: 32)")
    p.add_argument("--pnnx", metavar="PATH", help="another pnnx than the installed one")
    p.add_argument("--customop", metavar="LIB", help="operator library, for a pnnx built against the same libtorch")

    p = command(
        "run", commands.run_command, "Answer one prompt.", 'mpirun -np 2 mpsplit run build/vicuna --prompt "Hello"'
    )
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
    _add_engine(p)
    _add_sampling(p)

    p = command("chat", commands.chat_command, "Talk to it.", "mpirun -np 2 mpsplit chat build/vicuna")
    _add_package(p)
    _add_ranks(p)
    _add_engine(p)
    _add_sampling(p)

    p = command(
        "inspect", commands.inspect_command, "Show what a package holds, rank by rank.", "mpsplit inspect build/vicuna"
    )
    _add_package(p)
    p.add_argument("--check", action="store_true", help="read every file again and compare it with the manifest")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = command(
        "verify",
        commands.verify_command,
        "Compare the package with the original model; exit 1 when they differ.",
        "mpsplit verify build/vicuna MODEL",
    )
    _add_package(p)
    _add_model(p)
    _add_ranks(p)
    _add_engine(p, ENGINES | SLICES)
    p.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a logit (default: 1e-3)")
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = command(
        "bench",
        commands.bench_command,
        "Measure how fast it runs here, and what holds it up.",
        "mpsplit bench build/vicuna; mpsplit bench --random llama-1.1b --ranks 2 --quant q4",
    )
    p.add_argument("package", metavar="PACKAGE", nargs="?", help="the directory that convert finished")
    p.add_argument("--random", metavar="SHAPE", help=f"random weights instead: {', '.join(SHAPES)}")
    _add_ranks(p)
    p.add_argument("--threads", type=int, metavar="T", help="threads a rank (default: an equal share of the cores)")
    p.add_argument("--quant", choices=tuple(KINDS), help="how --random stores weights (default: q4)")
    p.add_argument("--block", type=int, choices=BLOCKS, default=32, help="of --random (default: 32)")
    p.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds after the one that warms up (default: 5)")
    p.add_argument("--chunk", type=int, default=512, metavar="N", help="prompt tokens a step (default: 512)")
    _add_engine(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")

    p = command(
        "probe",
        commands.probe_command,
        "Measure the machines and the links between them.",
        "mpirun --hostfile hosts mpsplit probe --out cluster.json; mpsplit probe --ranks 2 --out cluster.json",
    )
    p.add_argument("--out", required=True, metavar="FILE", help="the cluster.json to write")
    _add_ranks(p)
    p.add_argument("--threads", type=int, metavar="T", help="threads a rank (default: an equal share of the cores)")
    p.add_argument("--hidden", type=int, default=4096, metavar="N", help="floats of an all_reduce (default: 4096)")
    p.add_argument("--disk", default=".", metavar="DIR", help="folder on the disk to measure (default: this one)")
    p.add_argument("--json", action="store_true", help="print the file's JSON instead of a table")

    p = command(
        "doctor",
        commands.doctor_command,
        "Check this machine: what works, what does not, how to mend it.",
        "mpsplit doctor",
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


ENGINES = {"native": "C++, the default where it is built", "stock": "the ncnn wheel"}
SLICES = {"torch": "the sliced modules before conversion, on partition's output too"}


def _add_engine(parser: argparse.ArgumentParser, engines: dict[str, str] = ENGINES) -> None:
    parser.add_argument("--engine", choices=tuple(engines), help="; ".join(f"{k}: {v}" for k, v in engines.items()))


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
    if mpi_rank() is not None:
        signal.signal(signal.SIGTERM, _ended_by_mpirun)
    try:
        return _obey(sys.argv[1:] if argv is None else argv)
    except EndedByMpirun:
        end_all_ranks(128 + signal.SIGTERM)


def _obey(given: list[str]) -> int:
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


def _ended_by_mpirun(*_) -> None:
    """Another rank has failed: unwind, so that nothing half-written stays."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise EndedByMpirun


class EndedByMpirun(BaseException):
    """Not an error of this rank, and nothing must catch it but for cleaning up."""


def _fail(message: str, code: int) -> int:
    """One line on the error stream; with peers, the end of all of them. When all ranks fail alike, the first one speaks."""
    rank = mpi_rank()
    if rank is None:
        print(f"mpsplit: {message}", file=sys.stderr)
        return code
    if rank:
        time.sleep(2 + 0.01 * rank)
    print(f"mpsplit: rank {rank}: {message}", file=sys.stderr)
    end_all_ranks(code)
