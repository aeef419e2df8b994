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

from mpsplit import __version__, commands, prefixes, serving, top
from mpsplit.comm import end_all_ranks, mpi_rank
from mpsplit.errors import MpsplitError
from mpsplit.export.shapes import SHAPES
from mpsplit.gate import LIMITS
from mpsplit.package.quantisation import BLOCKS, KINDS
from mpsplit.package.recipe import LAYOUTS, METHODS, NATIVE, SCALES
from mpsplit.planning import GOALS
from mpsplit.runtime.engine import CACHES
from mpsplit.runtime.settings import SETTINGS, TEXTS

NETRON = "In netron (netron.app), open PACKAGE/rank-R/fused.param, the graph of the native engine, or model.param, that of the ncnn wheel."


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
        "Decide who owns what, and say what it will need and how fast it will be.",
        "mpsplit plan MODEL --cluster cluster.json --out plan.json",
    )
    _add_model(p)
    p.add_argument("--ranks", type=int, metavar="N", help="how many machines there are, where no file tells")
    _add_description(p)
    p.add_argument(
        "--goal", choices=tuple(GOALS), default="token", help="what is to be best (default: seconds a token)"
    )
    p.add_argument("--pin", metavar="TEXT", help='your own plan: "embed=0; layers 0-9=0,1; layers 10-31=2; head=2"')
    p.add_argument("--plan", metavar="FILE", help="an earlier plan.json, to check and price it")
    _add_shape(p)
    p.add_argument("--quant", choices=tuple(KINDS), default="q4", help="how weights are stored (default: q4)")
    p.add_argument("--block", type=int, choices=BLOCKS, default=32, help="weights that share a scale (default: 32)")
    p.add_argument("--context", type=int, metavar="N", help="room for tokens (default: the model's)")
    p.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens of the prompt (default: 128)")
    p.add_argument("--new", type=int, default=64, metavar="N", help="tokens of the answer (default: 64)")
    p.add_argument("--chunk", type=int, default=128, metavar="N", help="prompt tokens a step (default: 128)")
    p.add_argument("--compare", action="store_true", help="a table: the best plans, even ones, one machine alone")
    p.add_argument("--dry-run", action="store_true", help="say it, and write nothing")
    p.add_argument("--out", metavar="FILE", help="write plan.json, for partition")
    p.add_argument("--draw", metavar="FILE", help="draw the plan, as SVG")
    p.add_argument("--hosts", metavar="DIR", help="write hostfile and rankfile, and say the mpirun line")
    p.add_argument("--json", action="store_true", help="print the plan as JSON")

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
    p.add_argument("--structure-only", action="store_true", help="config.json is enough: no weights need to be there")

    p = command(
        "convert",
        commands.convert_command,
        "Convert the traced slices to ncnn.",
        "mpirun -np 2 mpsplit convert build/vicuna",
    )
    _add_package(p)
    _add_ranks(p)
    p.add_argument("--serial", action="store_true", help="all ranks one after the other in this process, without MPI")
    p.add_argument("--quant", choices=tuple(KINDS), default="f32", help="how linear weights are stored (default: f32)")
    p.add_argument("--block", type=int, choices=BLOCKS, default=32, help="weights that share a scale (default: 32)")
    p.add_argument("--model", metavar="DIR", help="where the model is by now (default: where it was partitioned)")
    p.add_argument(
        "--quant-for",
        action="append",
        default=[],
        metavar="NAME=KIND",
        help="other bits for some: lm_head=q8,layers.0.*=q6/64,embed=q8 (may be repeated)",
    )
    p.add_argument(
        "--scales",
        choices=SCALES,
        help="scale of a block by its largest weight, or by least squared error (default: minmax, mse with --calibrate)",
    )
    p.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=NATIVE,
        help="whose kernels read the quantised weights: ours, or those of any ncnn, which are slower (default: native)",
    )
    p.add_argument(
        "--calibrate",
        metavar="FILE",
        help="text of the kind the model will see: it goes through the float model on all ranks, and rounding spares what it uses",
    )
    p.add_argument(
        "--calibrate-method",
        choices=METHODS,
        help="make up for what rounding spoils, or scale inputs before it, or both (default: gptq)",
    )
    p.add_argument("--calibrate-tokens", type=int, metavar="N", help="how many of FILE's tokens (default: 4096)")
    p.add_argument(
        "--share-with", metavar="PACKAGE", help="take weight files that are the same from there, one copy for both"
    )
    p.add_argument(
        "--encrypt", action="store_true", help="seal all but the manifest; plain weights never reach the disk"
    )
    _add_keys(p)
    p.add_argument("--pnnx", metavar="PATH", help="another pnnx than the installed one")
    p.add_argument("--customop", metavar="LIB", help="operator library, for a pnnx built against the same libtorch")
    p.add_argument("--verify", metavar="MODEL", help="then compare with this model, as `mpsplit verify` does")

    p = command(
        "repartition",
        commands.repartition_command,
        "Make a package for another plan out of one that is there, bit for bit, without the original model.",
        "mpsplit repartition build/vicuna --ranks 3 --out build/vicuna-3",
    )
    _add_package(p)
    _add_shape(p)
    _add_ranks(p)
    p.add_argument("--plan", help="a plan.json instead of --tensor and --pipeline")
    p.add_argument("-o", "--out", required=True, metavar="DIR", help="the new package's directory")
    p.add_argument("--serial", action="store_true", help="all ranks one after the other in this process, without MPI")

    p = command(
        "run", commands.run_command, "Answer one prompt.", 'mpirun -np 2 mpsplit run build/vicuna --prompt "Hello"'
    )
    _add_package(p)
    _add_ranks(p)
    prompt = p.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text, put through the chat template")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", help="token ids, for models without a tokenizer")
    p.add_argument("--raw", action="store_true", help="take --prompt as it stands, without the chat template")
    p.add_argument("--ignore-eos", action="store_true", help="go on after the end of the answer, for measurements")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument(
        "--dump", metavar="DIR", help="write hidden states, keys and values of each layer and step there, as npz"
    )
    p.add_argument(
        "--dump-per-rank", action="store_true", help="each rank its own part (default: put together a stage)"
    )
    p.add_argument("--report", action="store_true", help="set what was predicted beside what was measured")
    _add_machines(p)
    _add_keys(p)
    _add_engine(p)
    _add_sampling(p)
    _add_kv(p)
    _add_prefix(p)

    p = command("chat", commands.chat_command, "Talk to it.", "mpirun -np 2 mpsplit chat build/vicuna")
    _add_package(p)
    _add_ranks(p)
    _add_keys(p)
    _add_engine(p)
    _add_sampling(p)
    _add_kv(p)
    _add_prefix(p)

    p = command(
        "top",
        top.top_command,
        "Watch the ranks of a server: memory, speed, how much each computes and waits.",
        "mpsplit top http://127.0.0.1:8000",
    )
    top.add_options(p)

    p = command(
        "prefix",
        prefixes.prefix_command,
        "Compute once what many prompts begin with, and keep it in the package.",
        "mpirun -np 2 mpsplit prefix add build/vicuna --text-file system.txt --name helpdesk",
    )
    prefixes.add_options(p)
    _add_ranks(p)
    _add_keys(p)
    _add_engine(p)
    _add_chunk(p)
    _add_kv(p)

    p = command(
        "serve",
        serving.serve_command,
        "Answer any OpenAI client over HTTP, and browsers with a page to chat on.",
        "mpirun -np 2 mpsplit serve build/vicuna --port 8000",
    )
    _add_package(p)
    _add_ranks(p)
    _add_keys(p)
    _add_engine(p)
    _add_sampling(p)
    _add_kv(p)
    serving.add_options(p)

    p = command(
        "inspect",
        commands.inspect_command,
        "Show what a package holds, rank by rank; compare two, exit 1 when they differ; draw a rank's graph.",
        f"mpsplit inspect build/vicuna; mpsplit inspect --diff build/vicuna build/other\n\n{NETRON}",
    )
    p.add_argument("package", metavar="PACKAGE", nargs="?", help="the directory that convert finished")
    p.add_argument("--check", action="store_true", help="read every file again and compare it with the manifest")
    p.add_argument(
        "--context", type=int, metavar="N", help="tokens of the cache of keys and values (default: the model's)"
    )
    p.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="what differs between two packages, names and order aside"
    )
    p.add_argument("--dot", metavar="FILE", help="draw a rank's graph, for graphviz; collectives are marked")
    p.add_argument("--svg", metavar="FILE", help="or as a picture, which needs nothing")
    p.add_argument("--rank", type=int, metavar="R", help="whose graph (default: 0)")
    p.add_argument("--unfold", action="store_true", help="draw equal decoder layers one by one")
    _add_keys(p)
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
    _add_limits(p)
    p.add_argument("--layers", action="store_true", help="compare layer by layer too, and name the first that parts")
    p.add_argument("--prompts", metavar="FILE", help="one text a line (default: built-in random and English prompts)")
    _add_keys(p)
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
    _add_machines(p)
    _add_keys(p)
    _add_engine(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")

    for name, what in (("encrypt", "Seal a package's files with a key"), ("decrypt", "Open a sealed package's files")):
        p = command(
            name,
            getattr(commands, f"{name}_command"),
            f"{what}; the package itself is left as it is.",
            f"mpsplit {name} build/vicuna --out build/{name}ed --key-file vicuna.key",
        )
        _add_package(p)
        p.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
        _add_keys(p)

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

    p = command(
        "simulate",
        commands.simulate_command,
        "Play a plan out, message by message, on machines that need not exist.",
        "mpsplit simulate llama-70b --tensor 8 --pipeline 8 --latency 25us --bandwidth 1.2GB/s --jitter 0.2",
    )
    p.add_argument("model", metavar="MODEL", help=f"as for plan, or a shape: {', '.join(SHAPES)}")
    _add_shape(p)
    p.add_argument("--plan", metavar="FILE", help="a plan.json instead of --tensor and --pipeline")
    _add_description(p)
    p.add_argument("--jitter", type=float, default=0.0, metavar="J", help="of all seconds, such as 0.2 (default: 0)")
    p.add_argument(
        "--straggler",
        action="append",
        default=[],
        metavar="RANK=F",
        help="this rank computes F times slower (may be repeated)",
    )
    p.add_argument("--tokens", type=int, default=8, metavar="N", help="tokens after the first (default: 8)")
    p.add_argument("--requests", type=int, default=1, metavar="N", help="conversations at once (default: 1)")
    p.add_argument("--quant", choices=tuple(KINDS), default="q4", help="how weights are stored (default: q4)")
    p.add_argument("--context", type=int, default=2048, metavar="N", help="room for tokens (default: 2048)")
    p.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens of the prompt (default: 128)")
    p.add_argument("--seed", type=int, default=0, help="same seed, same weather (default: 0)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
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


def _add_description(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", metavar="FILE", help="the machines, as `mpsplit probe` measured them")
    parser.add_argument("--memory", metavar="4G,4G,8G", help="or what each has for it (default: as much as it takes)")
    parser.add_argument("--read", metavar="15GB/s", help="how fast each reads its memory (default: 15GB/s)")
    parser.add_argument("--flop", metavar="100G", help="what each computes a second of a prompt (default: 100G)")
    parser.add_argument("--latency", metavar="100us", help="of a message between two of them (default: 100us)")
    parser.add_argument("--bandwidth", metavar="117MB/s", help="between two of them (default: 117MB/s)")


def _add_machines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster", metavar="FILE", help="predict for these machines (default: those that the plan was made for)"
    )


ENGINES = {"native": "C++, the default where it is built", "stock": "the ncnn wheel"}
SLICES = {"torch": "the sliced modules before conversion, on partition's output too"}


def _add_engine(parser: argparse.ArgumentParser, engines: dict[str, str] = ENGINES) -> None:
    parser.add_argument("--engine", choices=tuple(engines), help="; ".join(f"{k}: {v}" for k, v in engines.items()))


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Of `verify`; without a default here each kind of package has its own, which gate.LIMITS knows."""
    for name, what in (
        ("tolerance", "largest difference of a logit"),
        ("max_kl", "largest mean KL divergence from the original, in nats"),
        ("min_top1", "smallest share of equal best tokens"),
        ("max_perplexity_ratio", "largest perplexity, over the original's"),
    ):
        defaults = ", ".join(
            f"{kind} {getattr(limits, name):g}" for kind, limits in LIMITS.items() if getattr(limits, name) is not None
        )
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="X", help=f"{what} (default: {defaults})"
        )


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file", metavar="FILE", help="the key: 32 bytes or 64 hex digits (default: what MPSPLIT_KEY holds)"
    )
    parser.add_argument(
        "--key-command", metavar="CMD", help="a command that prints the key (default: that of MPSPLIT_KEY_COMMAND)"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """What settings.py lists; without a default here, for what is not given leaves the word to --config."""
    parser.add_argument("--config", metavar="FILE", help="settings by these names: JSON, or lines NAME = VALUE")
    for name, setting in SETTINGS.items():
        option, action = f"--{name.replace('_', '-')}", "append" if setting.kind is TEXTS else "store"
        parser.add_argument(option, type=setting.kind.read, action=action, metavar=setting.metavar, help=setting.help)
    _add_chunk(parser)


def _add_chunk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunk", type=int, default=128, metavar="N", help="prompt tokens a step (default: 128)")


def _add_kv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kv", choices=CACHES, default=CACHES[0], help=f"how keys and values are stored (default: {CACHES[0]})"
    )


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="begin with what `mpsplit prefix add` kept under this name")


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
