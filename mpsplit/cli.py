"""The command line: the table of commands, and what becomes of their errors.

In: arguments. Out: an exit code:

0 done, 1 `verify` found a difference or `doctor` a fault, 2 something the user can mend.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from mpsplit import __version__
from mpsplit.comm import end_all_ranks, mpi_rank
from mpsplit.commands import (
    bench,
    chat,
    convert,
    doctor,
    encrypt,
    eval,
    inspect,
    partition,
    plan,
    prefix,
    probe,
    repartition,
    run,
    serve,
    simulate,
    stages,
    top,
    verify,
)
from mpsplit.errors import MpsplitError
from mpsplit.leash import end_with_mpirun, under_mpirun


@dataclass(frozen=True)
class Command:
    name: str
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None]
    summary: str
    example: str


COMMANDS = (
    Command("plan", plan.plan_command, plan.add_options,
            "Decide who owns what, and say what it will need and how fast it will be.",
            "mpsplit plan MODEL --cluster cluster.json --out plan.json"),
    Command("stages", stages.stages_command, stages.add_options,
            "Cut a model's graph into closed stages, and show them.",
            "mpsplit stages MODEL --stages 26"),
    Command("partition", partition.partition_command, partition.add_options,
            "Cut and trace the model, every rank its own slice.",
            "mpirun -np 2 mpsplit partition MODEL --out build/vicuna"),
    Command("convert", convert.convert_command, convert.add_options,
            "Convert the traced slices to ncnn.",
            "mpirun -np 2 mpsplit convert build/vicuna"),
    Command("repartition", repartition.repartition_command, repartition.add_options,
            "Make a package for another plan out of one that is there, bit for bit, without the original model.",
            "mpsplit repartition build/vicuna --ranks 3 --out build/vicuna-3"),
    Command("run", run.run_command, run.add_options,
            "Answer one prompt.",
            'mpirun -np 2 mpsplit run build/vicuna --prompt "Hello"'),
    Command("chat", chat.chat_command, chat.add_options,
            "Talk to it.",
            "mpirun -np 2 mpsplit chat build/vicuna"),
    Command("top", top.top_command, top.add_options,
            "Watch the ranks of a server: memory, speed, how much each computes and waits.",
            "mpsplit top http://127.0.0.1:8000"),
    Command("prefix", prefix.prefix_command, prefix.add_options,
            "Compute once what many prompts begin with, and keep it in the package.",
            "mpirun -np 2 mpsplit prefix add build/vicuna --text-file system.txt --name helpdesk"),
    Command("serve", serve.serve_command, serve.add_options,
            "Answer any OpenAI client over HTTP, and browsers with a page to chat on.",
            "mpirun -np 2 mpsplit serve build/vicuna --port 8000"),
    Command("inspect", inspect.inspect_command, inspect.add_options,
            "Show what a package holds, rank by rank; compare two, exit 1 when they differ; draw a rank's graph.",
            f"mpsplit inspect build/vicuna; mpsplit inspect --diff build/vicuna build/other\n\n{inspect.NETRON}"),
    Command("verify", verify.verify_command, verify.add_options,
            "Compare the package with the original model; exit 1 when they differ.",
            "mpsplit verify build/vicuna MODEL"),
    Command("eval", eval.eval_command, eval.add_options,
            "Judge a package by questions and texts of your own.",
            "mpirun -np 2 mpsplit eval build/vicuna --tasks tasks.json"),
    Command("bench", bench.bench_command, bench.add_options,
            "Measure how fast it runs here, and what holds it up.",
            "mpsplit bench build/vicuna; mpsplit bench --random llama-1.1b --ranks 2 --quant q4"),
    Command("encrypt", encrypt.encrypt_command, encrypt.add_options,
            "Seal a package's files with a key; the package itself is left as it is.",
            "mpsplit encrypt build/vicuna --out build/encrypted --key-file vicuna.key"),
    Command("decrypt", encrypt.decrypt_command, encrypt.add_options,
            "Open a sealed package's files; the package itself is left as it is.",
            "mpsplit decrypt build/vicuna --out build/decrypted --key-file vicuna.key"),
    Command("probe", probe.probe_command, probe.add_options,
            "Measure the machines and the links between them.",
            "mpirun --hostfile hosts mpsplit probe --out cluster.json; mpsplit probe --ranks 2 --out cluster.json"),
    Command("doctor", doctor.doctor_command, doctor.add_options,
            "Check this machine: what works, what does not, how to mend it.",
            "mpsplit doctor"),
    Command("simulate", simulate.simulate_command, simulate.add_options,
            "Play a plan out, message by message, on machines that need not exist.",
            "mpsplit simulate llama-70b --tensor 8 --pipeline 8 --latency 25us --bandwidth 1.2GB/s --jitter 0.2"),
)  # fmt: skip


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
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"example: {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command.run)
        sub.add_argument(
            "--log", default="warning", choices=("debug", "info", "warning"), help="how much to say (default: warning)"
        )
        command.add_options(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    end_with_mpirun()
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
        with ExitStack() as args.until_end:  # what the command holds, such as its package
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
    """One line on the error stream; with peers, the end of all of them. When all ranks fail alike,
    the first one speaks."""
    rank = mpi_rank()
    if rank is None:
        print(f"mpsplit: {message}", file=sys.stderr)
        return code
    if rank:  # mpirun may hang over a rank that leaves while others start; without it, two seconds are all there is
        time.sleep((2 if under_mpirun() else 1) + 0.01 * rank)
    print(f"mpsplit: rank {rank}: {message}", file=sys.stderr)
    end_all_ranks(code)
