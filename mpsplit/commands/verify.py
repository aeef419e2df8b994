"""`mpsplit verify`: the package against the original model.

In: both. Out: what was found, told and kept in the manifest; 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from mpsplit.check.gate import MARGINS, Limits, as_json, check_wishes, failures, show, store
from mpsplit.check.layer_cost import LayerCost
from mpsplit.comm import world
from mpsplit.commands.staged.staged_verify import verify_stages_command
from mpsplit.options.loop_options import ENGINES, add_engine
from mpsplit.options.model_argument import add_model
from mpsplit.options.package_argument import add_keys, add_package, hold_package, keys_of, package_for_ranks
from mpsplit.options.rank_options import add_ranks, on_ranks
from mpsplit.package.agreement import Agreement
from mpsplit.package.manifest import MANIFEST, PARTITION, Manifest
from mpsplit.package.stages.built import NCNN
from mpsplit.package.stages.stage_manifest import is_pipeline
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.runtime.engine.cores import cores

SLICES = {"torch": "the sliced modules before conversion, on partition's output too"}
# fields of gate.Limits; without them plain rounding to the package's kinds of weights decides
WISHES = {
    "tolerance": f"largest difference of a logit (default: {MARGINS['logits'].plus:g} in float32)",
    "max_kl": "largest mean KL divergence from the original, in nats",
    "min_top1": "smallest share of equal best tokens",
    "min_perplexity_ratio": "smallest perplexity, over the original's",
    "max_perplexity_ratio": "largest",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_model(parser)
    add_ranks(parser)
    add_engine(parser, ENGINES | SLICES)
    add = parser.add_argument
    for name, what in WISHES.items():
        add(f"--{name.replace('_', '-')}", type=float, metavar="X", help=what)
    add(
        "--layers",
        action=argparse.BooleanOptionalAction,
        help="compare layer by layer too, and name the first that parts (default: where that is cheap)",
    )
    add("--prompts", metavar="FILE", help="one text a line (default: built-in random and English prompts)")
    add_keys(parser)
    add("--json", action="store_true", help="print one JSON object")


def verify_command(args: argparse.Namespace) -> int:
    if is_pipeline(Path(args.package)):
        return verify_stages_command(args)
    from mpsplit.check.parting import shows_states
    from mpsplit.check.stored_weights import check_weights
    from mpsplit.check.verification import Trial, loop_of, read_texts, stored_kind, verify

    sliced = args.engine == "torch"  # the modules themselves, which need no conversion
    manifest = package_for_ranks(args, PARTITION if sliced else MANIFEST)
    # what has no weights of ours to read back, and none that are rounded
    floats = sliced or manifest.compiler != NCNN
    folder, package = original_of(manifest, args.model), Path(args.package)
    wishes = {name: getattr(args, name) for name in WISHES}
    check_wishes(**wishes)
    texts = read_texts(Path(args.prompts)) if args.prompts else ()
    if (code := on_ranks(manifest.plan.ranks, args)) is not None:
        return code
    comm = world()
    hold_package(args)
    trial = Trial(package, folder, texts=texts, keys=keys_of(args))
    weights, wrong = ((), ()) if floats else check_weights(package, manifest, folder, comm, trial.keys)
    loop = loop_of(args.engine, manifest, trial, comm)
    wish = args.layers if shows_states(loop.engine) else bool(args.layers)
    cost = of_rank_0(comm, asdict(LayerCost.of(manifest.facts, cores(), wish)), lambda told: LayerCost(**told))
    trial = replace(trial, layers=cost.compared, kind="f32" if floats else stored_kind(manifest, trial, comm))
    found = verify(loop, comm, trial)
    agreement = of_rank_0(comm, found and found.to_json(), Agreement.from_json)
    agreement = replace(agreement, weights=weights)
    limits = Limits.of(agreement).with_wishes(**wishes)
    failed = failures(agreement, limits, wrong)
    if comm.rank == 0 and args.json:
        print(json.dumps(as_json(agreement, limits, failed, cost)))
    elif comm.rank == 0:
        show(agreement, failed, cost, table=bool(args.layers))
    # whoever changes a sealed one signs it again
    if comm.host_lead and not sliced and not manifest.sealed:
        store(package, agreement)
    return int(bool(failed))


def original_of(manifest: Manifest, model: str) -> Path:
    """The directory of a model that the package can have been made of."""
    from mpsplit.check.verification import check_model
    from mpsplit.export.model.model_source import find_model

    folder = find_model(model)
    check_model(manifest.facts, folder)
    return folder


def verify_converted(args: argparse.Namespace) -> int:
    """What `convert --verify MODEL` does in the end: this command without options, on the same
    ranks, with the same key."""
    given = [args.package, args.verify]
    for name in ("ranks", "hostfile", "key_file", "key_command"):
        given += [f"--{name.replace('_', '-')}", str(value)] if (value := getattr(args, name)) else []
    parser = argparse.ArgumentParser()
    add_options(parser)
    known = argparse.Namespace(given=["verify", *given], until_end=args.until_end)
    return verify_command(parser.parse_args(given, known))
