"""What each command does. In: parsed arguments. Out: an exit code. One function works; what it needs is imported when it runs.

Commands that need ranks check their input first and then start themselves under mpirun, unless they are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from mpsplit import launch
from mpsplit.comm import mpi_rank, mpi_size, world
from mpsplit.errors import ConvertError, PlanError, RunError
from mpsplit.package.keys import Key, KeySource
from mpsplit.package.manifest import GRAPH, MANIFEST, PARTITION, Manifest, rank_folder
from mpsplit.package.param import Param
from mpsplit.package.quantisation import KINDS, Quantisation, kind_of
from mpsplit.package.recipe import METHODS, Recipe
from mpsplit.plan.cluster_json import load_cluster
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.placed import PLAN, Placed
from mpsplit.plan.shards import Plan, even_plan
from mpsplit.plan.sizes import Job
from mpsplit.runtime.engine import CACHES
from mpsplit.runtime.settings import SETTINGS, Layer, Settings, layer, merged, read_config


def plan_command(args: argparse.Namespace) -> int:
    from mpsplit import planning

    facts = _facts_of(args.model)
    ranks = args.ranks or (args.tensor or 1) * (args.pipeline or 1) * bool(args.tensor or args.pipeline)
    cluster, job = planning.cluster_of(args, ranks), planning.job_of(args, facts)
    if args.compare:
        rows = planning.compare(facts, cluster, job, args.goal)
        print(json.dumps(rows)) if args.json else planning.show_comparison(rows)
        return 0
    chosen = planning.choose(args, facts, cluster, job)
    if args.json:
        print(json.dumps(chosen.placed.to_json()))
    else:
        planning.show(chosen, facts, args.model)
    if not args.dry_run:
        planning.write(chosen, facts, args)
    return 0


def partition_command(args: argparse.Namespace) -> int:
    from mpsplit.export.source import find_config, find_model, read_config

    folder = (find_config if args.structure_only else find_model)(args.model)
    plan = _plan_for(args, ModelFacts.from_config(read_config(folder)), _started_ranks(args))
    if not args.serial and (code := _partition_under_mpirun(plan, args)) is not None:
        return code
    from mpsplit.export.partition import partition

    comm = _world_of(plan)
    began = time.perf_counter()
    placed = Placed.load(Path(args.plan)) if args.plan else None
    manifest = partition(folder, plan, Path(args.out), comm, args.form, placed, args.structure_only)
    if comm.rank == 0:
        for rank, part in enumerate(manifest.ranks):
            print(f"rank {rank}: {part.weight_bytes:,} bytes of weights, {len(part.schedule)} collectives")
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
    from mpsplit.inspection import tied

    if args.verify:
        _check_original(partition, args.verify)  # before the work, not after it
    key = _key_to_encrypt_with(args)
    scales = args.scales or ("mse" if args.calibrate else "minmax")
    recipe = Recipe.parse(args.quant, args.block, ",".join(args.quant_for), scales, args.layout)
    calibration = _calibration(args, recipe, partition)
    pnnx = find_pnnx(args.pnnx, args.customop)
    if not args.serial and (code := _under_mpirun(ranks, args)) is not None:
        return code
    comm = world()
    began = time.perf_counter()
    model, other = (Path(given) if given else None for given in (args.model, args.share_with))
    made = convert(package, comm, pnnx, recipe, model, calibration=calibration, share_with=other, key=key)
    if comm.rank == 0 and made.manifest is None:
        print(f"made the graphs of {ranks} ranks in {package}, no weights: it was partitioned with --structure-only")
        print(f"next: mpsplit convert {package} --model DIR, where the weights are")
    elif comm.rank == 0:
        for rank, (part, read) in enumerate(zip(made.manifest.ranks, made.read, strict=True)):
            size, bits = sum(file.size for file in part.files), _bits(package, made.manifest, rank)
            print(f"rank {rank}: {size:,} bytes{bits}; read {read:,} of {part.weight_bytes:,} bytes of weights")
        if made.manifest.facts.tied:
            print(f"{tied(made.manifest)}; stored as {made.manifest.tools['recipe']}")
        print(f"converted {package} in {time.perf_counter() - began:.1f} s; next: mpsplit run {package} --prompt Hello")
    return verify_command(_to_verify(args)) if args.verify else 0


def _bits(package: Path, manifest: Manifest, rank: int) -> str:
    """Of a weight as stored, where this host can look: not into the graphs of other hosts, nor into sealed ones."""
    from mpsplit.package.contents import contents

    held = None if manifest.sealed else contents(package, manifest, rank, manifest.facts.context).total
    return f", {held.bits:.2f} bits a weight" if held and held.weights else ""


def repartition_command(args: argparse.Namespace) -> int:
    from mpsplit.export.pnnx import find_pnnx

    package, out = Path(args.package), Path(args.out)
    old = Manifest.load(package)
    plan, pnnx = _plan_for(args, old.facts, _started_ranks(args)), find_pnnx()
    if not args.serial and (code := _partition_under_mpirun(plan, args)) is not None:
        return code
    from mpsplit.export.repartition import needed, repartition

    comm = _world_of(plan)
    began = time.perf_counter()
    made = repartition(package, plan, out, comm, pnnx, Placed.load(Path(args.plan)) if args.plan else None)
    if comm.rank == 0:
        for shard, part, read in zip(plan.shards, made.manifest.ranks, made.read, strict=True):
            ranks = ", ".join(map(str, needed(old.plan, [shard])))
            size = sum(file.size for file in part.files)
            print(f"rank {shard.rank}: {size:,} bytes; read {read:,} of rank {ranks} of {package}")
        print(f"repartitioned {package} into {out} in {time.perf_counter() - began:.1f} s, every weight as it was")
    return 0


def run_command(args: argparse.Namespace) -> int:
    from mpsplit.runtime.dump import Dump

    manifest = _package_for_ranks(args)
    if args.dump_per_rank and not args.dump:
        raise RunError("--dump-per-rank says how, not where; give --dump DIR with it")
    dump = Dump(Path(args.dump), args.dump_per_rank).check() if args.dump else None
    placed = _placed(args, manifest) if args.report or args.cluster else None
    prefix = _prefix(args)
    if prefix and args.prompt_ids:
        raise RunError(
            "--prefix is a text before --prompt, and has no place before --prompt-ids; leave one of them out"
        )
    settings = _begun_with(prefix, args)
    if (code := _under_mpirun(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.runtime import report
    from mpsplit.runtime.requests import Request

    loop = _lead(args, dump)
    if loop is None:
        return 0
    prompt = _prompt_ids(args, loop.text, settings)
    sampling, warm = settings.sampling, prefix.folder if prefix else ""
    request = Request(prompt, settings.max_new_tokens, sampling, settings.stop, args.ignore_eos, warm=warm)
    result = loop.generate(request, (lambda piece: None) if args.json else _print_now)
    loop.end()
    parts = report.parts_of(manifest.facts, result.stats, placed, _stored_kind(args), args.chunk) if args.report else ()
    if args.json:
        print(
            json.dumps(
                vars(result) | {"stats": result.stats.to_json(), "report": [asdict(part) for part in parts]},
                ensure_ascii=False,
            )
        )
        return 0
    print(",".join(map(str, result.token_ids)) if result.text is None else "", flush=True)
    time.sleep(0.02)  # mpirun carries the two streams side by side: let the answer arrive first
    print(f"[{result.finish_reason}; {result.stats}]", file=sys.stderr)
    if args.report:
        report.show(parts, placed, result.stats.accounts)
    return 0


def chat_command(args: argparse.Namespace) -> int:
    manifest = _package_for_ranks(args)
    layers, prefix = _layers(args), _prefix(args)
    merged(*layers)  # refuses before the work
    if (code := _under_mpirun(manifest.plan.ranks, args, reads_input=True)) is not None:
        return code
    from mpsplit.serve.chat import Conversation, chat

    loop = _lead(args)
    if loop is None:
        return 0
    conversation = Conversation(loop, *layers)
    if prefix:
        conversation.begin_with(prefix)
    chat(conversation, launch.input_lines())
    loop.end()
    return 0


def inspect_command(args: argparse.Namespace) -> int:
    if bool(args.package) == bool(args.diff):
        raise RunError("inspect what? give either a PACKAGE or --diff A B")
    from mpsplit import inspection

    if args.diff:
        if idle := [
            f"--{name}" for name in ("check", "context", "dot", "svg", "rank", "unfold") if getattr(args, name)
        ]:
            raise RunError(f"--diff compares two packages and has no use for {' and '.join(idle)}; leave it out")
        return inspection.show_difference(*map(Path, args.diff), args.json)
    package = Path(args.package)
    manifest = Manifest.load(package)
    if args.check:
        for rank in range(manifest.plan.ranks):
            manifest.check_files(package, rank, again=True)
    keys = _keys(args)
    if keys.asked or args.check and manifest.sealed:
        from mpsplit.package.opened import authenticate, vault_of

        (authenticate if args.check else vault_of)(package, manifest, keys)
    if args.dot or args.svg:
        inspection.draw(package, manifest, args.rank or 0, args.unfold, {"dot": args.dot, "svg": args.svg})
        return 0
    if args.rank is not None or args.unfold:
        raise RunError("--rank and --unfold say how to draw; give --dot FILE or --svg FILE with them")
    inspected = inspection.inspect(package, manifest, args.context)
    if args.json:
        print(json.dumps(inspection.describe(inspected), indent=1, ensure_ascii=False))
    else:
        inspection.show(inspected)
        if manifest.sealed:
            print(f"\nencrypted with {manifest.sealed.algorithm}, its key is {manifest.sealed.key}")
    return 0


def encrypt_command(args: argparse.Namespace) -> int:
    return _copy_package(args, "encrypt")


def decrypt_command(args: argparse.Namespace) -> int:
    return _copy_package(args, "decrypt")


def _copy_package(args: argparse.Namespace, what: str) -> int:
    from mpsplit.package import encryption

    if mpi_rank():
        return 0  # one rank of an mpirun does it
    began = time.perf_counter()
    made = getattr(encryption, what)(Path(args.package), Path(args.out), _keys(args).find())
    seconds, size = time.perf_counter() - began, sum(file.size for file in made.files)
    print(f"{what}ed {len(made.files)} files, {size:,} bytes, into {args.out} in {seconds:.1f} s")
    return 0


GATED = ("tolerance", "max_kl", "min_top1", "max_perplexity_ratio")  # options of verify, fields of gate.Limits


def verify_command(args: argparse.Namespace) -> int:
    from mpsplit import gate
    from mpsplit.verification import Trial, read_texts

    sliced = args.engine == "torch"  # the modules themselves, which need no conversion
    manifest = _package_for_ranks(args, PARTITION if sliced else MANIFEST)
    folder, package = _check_original(manifest, args.model), Path(args.package)
    wishes = {name: getattr(args, name) for name in GATED}
    gate.LIMITS["f32"].with_wishes(**wishes)  # refuses before the work
    texts = read_texts(Path(args.prompts)) if args.prompts else ()
    if (code := _under_mpirun(manifest.plan.ranks, args)) is not None:
        return code
    return gate.judge(
        args, manifest, Trial(package, folder, texts=texts, layers=args.layers, keys=_keys(args)), wishes, world()
    )


def _key_to_encrypt_with(args: argparse.Namespace) -> Key | None:
    keys = _keys(args)
    if not args.encrypt and keys.asked:
        raise ConvertError("a key was given, but not to encrypt with; add --encrypt, or leave the key out")
    if args.encrypt and args.share_with:
        raise ConvertError(
            "encrypted packages share no files: each has its own way to write them; leave --share-with out"
        )
    return keys.find() if args.encrypt else None


def _check_original(manifest: Manifest, model: str) -> Path:
    """The directory of a model that the package can have been made of."""
    from mpsplit.export.source import find_model
    from mpsplit.verification import check_model

    folder = find_model(model)
    check_model(manifest.facts, folder)
    return folder


def _calibration(args: argparse.Namespace, recipe: Recipe, partition: Manifest):
    """Of convert's options, checked before the work; None without."""
    if args.calibrate is None:
        if args.calibrate_method or args.calibrate_tokens is not None:
            raise ConvertError("--calibrate-method and --calibrate-tokens say how; give the text with --calibrate FILE")
        return None
    from mpsplit.export.calibration import MOST, Calibration, check_calibration

    check_calibration(recipe, partition, 1 if args.serial and mpi_rank() is None else partition.plan.ranks)
    tokens = MOST if args.calibrate_tokens is None else args.calibrate_tokens
    return Calibration.of(Path(args.calibrate), Path(args.package), args.calibrate_method or METHODS[0], tokens)


def _to_verify(args: argparse.Namespace) -> argparse.Namespace:
    """What `verify` is to do after `convert --verify MODEL`: what it does without options."""
    given = ["verify", args.package, args.verify]
    for name in ("key_file", "key_command"):
        given += [f"--{name.replace('_', '-')}", value] if (value := getattr(args, name)) else []
    options = dict.fromkeys(("engine", "prompts", "layers", "json", *GATED))
    same = {name: getattr(args, name) for name in ("package", "ranks", "hostfile", "key_file", "key_command")}
    return argparse.Namespace(model=args.verify, given=given, **same, **options)


def bench_command(args: argparse.Namespace) -> int:
    if bool(args.package) == bool(args.random):
        raise RunError("measure what? give either a PACKAGE or --random SHAPE")
    _at_least_one(args, "ranks", "threads", "repeat", "chunk")
    _take_threads(args)
    if args.random:
        args.package = _random_package(args)
    manifest = _package_for_ranks(args)
    placed = _placed(args, manifest)
    if (code := _under_mpirun(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.runtime import measure, report
    from mpsplit.runtime.cores import share_of_cores
    from mpsplit.runtime.load import load_engine

    comm = world()
    package = Path(args.package)
    stored = max(comm.exchange(_stored_kind(args)), key=KINDS.__getitem__)  # a rank without linears passes for f32
    if args.quant not in (None, stored):
        raise RunError(f"{package} is stored as {stored}; run `mpsplit convert {package} --quant {args.quant}` first")
    work = measure.Work.within(manifest.facts.context)
    if comm.rank == 0 and work.lengths != measure.LENGTHS:
        lengths = " and ".join(map(str, work.lengths))
        print(f"the context of {manifest.facts.context} has room for prefill {lengths} and decode {work.new}", file=sys.stderr)  # fmt: skip
    bench = measure.Bench(
        load_engine(package, comm, args.engine, _keys(args)), comm, share_of_cores(comm.local_size), args.chunk, work
    )
    predicted = report.speed_of(manifest.facts, placed, stored, work, args.chunk) if placed else None
    speed = measure.measure(bench, args.repeat, shape=manifest.model, quant=stored, predicted=predicted)
    if comm.rank == 0:
        if args.json:
            print(json.dumps(asdict(speed)))
        else:
            measure.show(speed)
    return 0


def probe_command(args: argparse.Namespace) -> int:
    _at_least_one(args, "ranks", "threads", "hidden")
    out = Path(args.out)
    if mpi_rank() in (None, 0):
        _check_writable(out)
    _take_threads(args)
    if (code := _under_mpirun(args.ranks or 1, args)) is not None:
        return code
    from mpsplit.package.files import beside
    from mpsplit.plan.cluster_json import save_cluster, to_json
    from mpsplit.runtime.cores import share_of_cores
    from mpsplit.runtime.probe import probe, show

    comm = world()
    began = time.perf_counter()
    cluster = probe(comm, share_of_cores(comm.local_size), Path(args.disk), args.hidden)
    if comm.rank == 0:
        with beside(out) as partial:
            save_cluster(cluster, partial)
        if args.json:
            print(json.dumps(to_json(cluster)))
        else:
            show(cluster)
            print(f"measured in {time.perf_counter() - began:.1f} s; {out} is written")
    comm.wait()
    return 0


def doctor_command(args: argparse.Namespace) -> int:
    from mpsplit import doctor

    findings = doctor.examine()
    if args.json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        doctor.show(findings)
    return int(not all(f.fine for f in findings if f.need != "build"))


def simulate_command(args: argparse.Namespace) -> int:
    from mpsplit import simulation
    from mpsplit.plan.cost import price
    from mpsplit.plan.simulate import Weather, simulate

    facts = _facts_of(args.model)
    if bool(args.plan) == (args.tensor is not None or args.pipeline is not None):
        raise PlanError("which plan? give either --plan FILE, or --tensor T and --pipeline P")
    if args.plan:
        plan = Plan.load(Path(args.plan)).check(facts)
    else:
        plan = even_plan(facts, *(1 if n is None else n for n in (args.tensor, args.pipeline)))
    cluster = simulation.cluster_of(args, plan.ranks)
    job = Job(kind=args.quant, context=args.context, prompt=args.prompt, new=args.tokens)
    weather = Weather(args.jitter, args.jitter, _stragglers(args.straggler), args.seed)
    found = simulate(facts, plan, cluster, job, weather, args.tokens, args.requests)
    Placed(plan, cluster, job).check_room(facts)
    cost = price(facts, plan, cluster, job)
    if args.json:
        print(json.dumps(simulation.describe(cost, found)))
    else:
        stages = f"{len(plan.stages)} stage{'s' * (len(plan.stages) > 1)}"
        simulation.show(f"{args.model} {args.quant}, {plan.ranks} ranks in {stages}", cost, found, args.requests)
    return 0


# -- what several commands share ---------------------------------------------------------------------------------------------


def _started_ranks(args: argparse.Namespace) -> int | None:
    """How many ranks the user asked for by mpirun or --ranks; None for neither."""
    return args.ranks if mpi_rank() is None else mpi_size()


def _under_mpirun(ranks: int, args: argparse.Namespace, reads_input: bool = False) -> int | None:
    """The exit code of this command started again on `ranks` ranks; None when it runs in the right place already."""
    if ranks == 1 or mpi_rank() is not None:
        return None
    return launch.start(ranks, args.given, args.hostfile, reads_input)


def _at_least_one(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if (value := getattr(args, name)) is not None and value < 1:
            raise RunError(f"--{name} {value} is out of range; it must be at least 1")


def _take_threads(args: argparse.Namespace) -> None:
    """--threads, of this process or the ranks it starts."""
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)


def _check_writable(out: Path) -> None:
    """Before the work, not after it."""
    from tempfile import TemporaryFile

    if out.is_dir():
        raise RunError(f"{out} is a folder; give --out the name of a file")
    try:
        TemporaryFile(dir=out.parent).close()
    except OSError as wrong:
        raise RunError(f"{out} cannot be written ({wrong.strerror}); give --out a file in a folder that can") from None


def _partition_under_mpirun(plan: Plan, args: argparse.Namespace) -> int | None:
    from mpsplit.export.unfinished import forget

    code = _under_mpirun(plan.ranks, args)
    if code:
        forget(Path(args.out), range(plan.ranks))  # of ranks that mpirun killed in the middle of a long call
    return code


def _world_of(plan: Plan):
    """All ranks of the plan, or this process for all of them."""
    comm = world()
    if comm.size not in (1, plan.ranks):
        raise PlanError(f"the plan has {plan.ranks} ranks, {comm.size} were started; use `mpirun -np {plan.ranks}`")
    return comm


def _plan_for(args: argparse.Namespace, facts: ModelFacts, started: int | None) -> Plan:
    from mpsplit.planning import factors

    if args.plan:
        return Plan.load(Path(args.plan)).check(facts)
    ranks = started or args.ranks
    if not (ranks or args.tensor or args.pipeline):
        raise PlanError("over how many ranks? give --ranks N, or --tensor T and --pipeline P, or --plan FILE")
    return even_plan(facts, *factors(args, ranks))


def _facts_of(model: str) -> ModelFacts:
    """Of a name of SHAPES, or of a model's config.json."""
    from mpsplit.export.shapes import SHAPES
    from mpsplit.export.source import find_config, read_config

    if model not in SHAPES:
        return ModelFacts.from_config(read_config(find_config(model)))
    return SHAPES[model].facts


def _stragglers(words: list[str]) -> dict[int, float]:
    """["3=2.0"]: rank 3 is twice as slow."""
    try:
        return {int(rank): float(factor) for rank, factor in (word.split("=") for word in words)}
    except ValueError:
        raise RunError(f"--straggler {' '.join(words)!r} must be RANK=FACTOR, such as 3=2.0") from None


def _random_package(args: argparse.Namespace) -> Path:
    """The package of --random, made by one rank of each host if it is not in the cache."""
    from mpsplit.export.random_model import package_path, random_package
    from mpsplit.export.shapes import find_shape

    wanted = (args.random, _started_ranks(args) or 1, Quantisation.named(args.quant or "q4", args.block))
    find_shape(args.random)
    comm = world()
    if comm.host_lead:
        random_package(*wanted)
    comm.exchange(None)
    return package_path(*wanted)


def _package_for_ranks(args: argparse.Namespace, name: str = MANIFEST) -> Manifest:
    from mpsplit.runtime.load import check_ranks

    package = Path(args.package)
    manifest = Manifest.load(package, name)
    if (started := _started_ranks(args)) is not None:
        check_ranks(manifest, package, started)
    if mpi_rank() is None:  # before the ranks are started, which look for the key again
        from mpsplit.package.opened import vault_of

        vault_of(package, manifest, _keys(args))
    return manifest


def _placed(args: argparse.Namespace, manifest: Manifest) -> Placed | None:
    """The machines that the package runs on: those of --cluster, or those that its plan was made for; None where nobody knows."""
    if args.cluster:
        cluster = load_cluster(Path(args.cluster))
        if cluster.size != manifest.plan.ranks:
            raise PlanError(
                f"{args.cluster} has {cluster.size} devices, {args.package} {manifest.plan.ranks} ranks; probe as many as will run"
            )
        return Placed(manifest.plan, cluster, Job())
    path = Path(args.package) / PLAN
    return Placed.load(path) if path.is_file() else None


def _stored_kind(args: argparse.Namespace) -> str:
    """How this rank's linears are stored."""
    from mpsplit.package.opened import text_of

    package = Path(args.package)
    graph = rank_folder(package, mpi_rank() or 0) / GRAPH
    name = graph.relative_to(package).as_posix()
    return kind_of(Param.parse(text_of(package, Manifest.load(package), name, _keys(args))))


def _keys(args: argparse.Namespace) -> KeySource:
    return KeySource(args.key_file, args.key_command)


def _lead(args: argparse.Namespace, dump=None):
    """The token loop on rank 0. The other ranks follow it here until it ends, and get None."""
    from mpsplit.runtime.load import load_loop

    comm = world()
    loop = load_loop(Path(args.package), comm, args.chunk, args.engine, dump, _keys(args))
    if comm.rank == 0:
        if getattr(args, "kv", CACHES[0]) != CACHES[0]:
            loop.reserve(loop.facts.context, args.kv)
        return loop
    loop.follow()
    return None


def _prompt_ids(args: argparse.Namespace, text, settings: Settings) -> tuple[int, ...]:
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
        return tuple(text.raw(args.prompt))
    messages = settings.messages([{"role": "user", "content": args.prompt}])
    return tuple(text.chat(messages, template=settings.template))


def _prefix(args: argparse.Namespace):
    """What is kept of --prefix, which rank 0 alone needs to have; None without it."""
    if not args.prefix or mpi_rank():
        return None
    from mpsplit.runtime.kept import PREFIXES, Kept, folder_of

    return Kept.read(Path(args.package), folder_of(PREFIXES, args.prefix))


def _begun_with(prefix, args: argparse.Namespace) -> Settings:
    """Settings of a call that begins with a prefix: its text is the system message, or stands before a raw prompt."""
    layers = _layers(args)
    if prefix:
        from mpsplit.runtime.kept import text_of

        text = text_of(prefix, args.raw)
        if args.raw:
            args.prompt = text + args.prompt
        elif merged(*layers).system:
            raise RunError(f"--prefix {args.prefix} is the system message; leave --system out")
        else:
            layers = (*layers, {"system": text})
    return merged(*layers)


def _layers(args: argparse.Namespace) -> tuple[Layer, Layer]:
    """Of --config, which rank 0 alone needs to have, and of the command line."""
    wanted = args.config and mpi_rank() in (None, 0)
    given = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    return read_config(Path(args.config)) if wanted else {}, layer(given, "the command line")


def _print_now(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
