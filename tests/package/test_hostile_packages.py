"""Packages that somebody made to do harm: refused with one line that names the file, and nothing
allocated because a file says so."""

import contextlib
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.comm import Alone
from mpsplit.errors import MpsplitError, PackageError
from mpsplit.native import cpp
from mpsplit.package.checked.graph_check import check_graphs
from mpsplit.package.manifest import Manifest
from mpsplit.package.sealed.encryption import encrypt
from mpsplit.package.sealed.keys import Key, KeySource
from mpsplit.package.sealed.opened import authenticate, opened_rank
from mpsplit.package.stored.quantisation import LAYER
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.runtime.load import load_engine
from mpsplit.runtime.talk.text import load_text
from tests.missing import need, needs
from tests.models import EXAMPLE
from tests.packages import edit_manifest, mutated, put, weight_path
from tests.running import refused

HUGE = 10**9
GROWTH = 50 << 20
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def original(package_of, tmp_path_factory):
    """A small 4-bit package with a tokenizer."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.package.stored.quantisation import Quantisation

    out = shutil.copytree(package_of(EXAMPLE, 1, 1), tmp_path_factory.mktemp("hostile") / "package")
    convert(out, Alone(), find_pnnx(), Recipe(Quantisation.named("q4", 32)))
    for path in ("passes", "partition.json"):
        for found in (*out.glob(path), *out.glob(f"rank-*/{path}"), *out.glob("rank-*/*.pt")):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    return out


@pytest.fixture
def package(original, tmp_path):
    return shutil.copytree(original, tmp_path / "package")


def load(package: Path) -> None:
    manifest = Manifest.load(package)
    manifest.check_files(package, 0)
    with opened_rank(package, manifest, 0):
        pass


def vouch(package: Path) -> None:
    """Whoever does harm writes the right sizes and hashes."""

    def change(data):
        for file in (*data["tokenizer"], *data["ranks"][0]["files"]):
            path = package / file["path"]
            file |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    edit_manifest(package, change)


MANIFESTS = [
    (put("ranks", 0, "files", 0, "path", "/etc/passwd"), "a path inside the package"),
    (put("ranks", 0, "files", 0, "path", "rank-0/../../x"), "a path inside the package"),
    (put("ranks", 0, "files", 0, "path", "rank-0//x"), "a path inside the package"),
    (put("ranks", 0, "files", 0, "path", "rank-0/model.param\0"), "a path inside the package"),
    (put("ranks", 0, "files", 0, "path", "\ud800"), "a path inside the package"),
    (put("ranks", 0, "files", 0, "path", "a" * 300), "a path inside the package"),
    (put("ranks", 0, "files", 0, "size", -1), "a whole number from 0"),
    (put("ranks", 0, "files", 0, "size", 10**30), "a whole number from 0"),
    (put("ranks", 0, "files", 0, "size", 1.0), "a whole number from 0"),
    (put("ranks", 0, "files", 0, "size", True), "a whole number from 0"),
    (put("ranks", 0, "files", 0, "sha256", "x"), "a sha256"),
    (put("ranks", 0, "files", [{}]), "has no path"),
    (put("ranks", 0, "schedule", [["explode", 1]]), "must be one of all_reduce"),
    (put("ranks", 0, "schedule", [["all_gather", 1]]), "takes group, size"),
    (put("ranks", []), "its plan has 1 shards, its list of ranks 0"),
    (put("facts", "hidden", "64"), "a whole number from 1"),
    (put("facts", "kv_heads", 0), "a whole number from 1"),
    (put("facts", "layers", HUGE), "a whole number from 0"),
    (put("facts", "context", 1 << 24), "more than any model has"),
    (put("facts", "surprise", 1), "surprise"),
    (put("plan", "shards", 0, "stage", HUGE), "a whole number from 0"),
    (put("plan", "shards", 0, "kv_heads", {"start": 0, "stop": HUGE}), "a whole number from 0"),
    (put("plan", "shards", 0, "kv_heads", {"start": 0, "stop": 4000}), "KV heads"),
    (put("plan", "shards", 0, "embed", {"start": 5, "stop": 2}), "ends at 2, before it begins at 5"),
    (put("plan", "version", 99), "plan has version 99"),
    (put("rope", "inverse_frequencies", [float("nan")]), "NaN is no number"),
    (put("rope", "scaling", float("inf")), "Infinity is no number"),
    (put("rope", "scaling", None), "a number of at most"),
    (put("rope", "inverse_frequencies", []), "more than any model has"),
    (put("dtype", "F64"), "one of F32"),
    (put("dtype", ["F32"]), "one of F32"),
    (put("model", "\udc80"), "it must be text of one line"),
    (put("model", "\x1b[2J"), "it must be text of one line"),
    (put("tools", []), "an object"),
    (put("sealed", {"algorithm": "rot13"}), "has no chunk|one of AES"),
    (put("format_version", "3"), "format version 3"),
]


@pytest.mark.parametrize("change, told", MANIFESTS)
def test_a_manifest_that_cannot_be(package, change, told):
    edit_manifest(package, change)
    with pytest.raises(PackageError, match=told) as wrong:
        load(package)
    assert str(package) in str(wrong.value) and "\n" not in str(wrong.value) and len(str(wrong.value)) < 700


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ('{"format_version": 2, "format_version": 1}', "'format_version' stands twice in one object"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("[]", "no object"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_is_none(package, text, told):
    (package / "manifest.json").write_text(text)
    with pytest.raises(PackageError, match=told):
        load(package)


def test_a_manifest_of_gigabytes_is_not_read(package):
    with open(package / "manifest.json", "r+b") as file:
        file.truncate(8 << 30)
    with pytest.raises(PackageError, match="has 8589934592 bytes, .* are the most"):
        load(package)


def test_links_and_things_that_are_no_files(package, tmp_path):
    path = weight_path(package / "rank-0")
    shutil.copy(path, tmp_path / "outside")
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(PackageError, match=f"{path.name} leads out of the package, to {tmp_path}/outside"):
        load(package)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PackageError, match=rf"{path.name} is missing"):
        load(package)
    path.unlink()
    shutil.move(package / "rank-0", tmp_path / "elsewhere")
    (package / "rank-0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="leads out of the package"):
        load(package)


def test_a_file_that_nobody_vouches_for(package):
    name = weight_path(package / "rank-0", "packed").name

    def unlist(data):
        files = data["ranks"][0]["files"]
        files.remove(next(file for file in files if file["path"].endswith(name)))

    edit_manifest(package, unlist)
    with pytest.raises(PackageError, match=f"{name} is not in the manifest"):
        load(package)


PARAMS = [
    (lambda t: t.replace("7767517", "7767518"), "not an ncnn .param"),
    (lambda t: t.replace(t.split("\n")[1], f"{HUGE} {HUGE}"), "counts '1000000000 1000000000' layers and blobs"),
    (lambda t: t.replace(t.split("\n")[1], "-1 -1"), "layers and blobs"),
    (lambda t: t.replace(t.split("\n")[1], "1"), "layers and blobs"),
    (lambda t: t.replace(" 1 1 ", f" {HUGE} 1 ", 1), "counts 1000000000 . 1 blobs"),
    (lambda t: t.replace(" 1 1 ", " -1 1 ", 1), "counts -1"),
    (lambda t: t.replace(" 1 1 ", " 1_0 1 ", 1), "is no whole number"),
    (lambda t: t.replace("RMSNorm ", "Convolution ", 1), "mpsplit does not write such a layer"),
    (lambda t: t.replace(" 1=", " 0=", 1), "a parameter twice"),
    (lambda t: t.replace(" 1=", f" -23303={HUGE},1 1=", 1), "has the parameter '-23303=1000000000,1'"),
    (lambda t: t.replace(" 1=", " 99999=1 1=", 1), "has the parameter '99999=1'"),
    (lambda t: t.replace("Swish ", "Swish " + "a" * 300, 1), "no layer"),
    (lambda t: "\n".join([*t.split("\n")[:2], *reversed(t.strip().split("\n")[2:])]), "which nobody makes before it"),
    (lambda t: "7767517\n", "is no whole number|layers and blobs"),
]


@pytest.mark.parametrize("change, told", PARAMS)
def test_a_graph_that_cannot_be(package, change, told):
    """In each of the two graphs that has such a layer."""
    texts = {path: path.read_text() for path in (package / "rank-0" / name for name in ("model.param", "fused.param"))}
    changed = {path: change(text) for path, text in texts.items() if change(text) != text}
    assert changed
    for path, text in changed.items():
        path.write_text(text)
        vouch(package)
        with pytest.raises(PackageError, match=told) as wrong:
            load(package)
        assert str(path) in str(wrong.value) and "\n" not in str(wrong.value)
        path.write_text(texts[path])


@pytest.mark.parametrize("name", ["model.param", "fused.param"])
@pytest.mark.parametrize(
    "number, value",
    [(0, HUGE), (0, -5), (1, 2**62), (2, 5), (3, 0), (4, -1), (4, HUGE), (5, -64), (5, 2**62), (6, HUGE)],
)
def test_a_linear_that_lies_elsewhere(package, name, number, value):
    lines = (package / "rank-0" / name).read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith(LAYER))
    words = lines[at].split()
    lines[at] = " ".join(f"{number}={value}" if word.startswith(f"{number}=") else word for word in words)
    (package / "rank-0" / name).write_text("\n".join(lines))
    vouch(package)
    with pytest.raises(PackageError, match=f"rank-0/{name} is damaged"):
        load(package)


@pytest.mark.parametrize("name", ["model.param", "fused.param"])
@pytest.mark.parametrize(
    "number, value, told",
    [(18, 440, "must be one of"), (18, 410, "must be one of"), (18, -1, "must be one of"), (18, 2, "must be one of"),
     (18, 800, "its floats take"), (18, 0, "its floats take"), (8, -5, "8=-5 is not from 1"),
     (9, 100, "9=100 inputs do not fit 128"), (9, 1 << 40, "is more than ncnn counts to"),
     (3, 0, "3=0 must be 1"), (4, 1, "4=1 must be 0"),
     (5, 0, "5=0 must be 1")]
)  # fmt: skip
def test_a_matrix_in_blocks_that_cannot_be(package, name, number, value, told):
    """The head becomes ncnn's; no file has its bytes."""
    path = package / "rank-0" / name
    head = next(line for line in path.read_text().split("\n") if line.startswith(LAYER) and "lm_head" in line)
    blobs = head.split()[1:6]
    params = {"2": 0, "3": 1, "4": 0, "5": 1, "6": 1, "8": 512, "9": 128, "10": -1, "18": 400, str(number): value}
    gemm = " ".join(["Gemm", *blobs, *(f"{key}={value}" for key, value in params.items())])
    path.write_text(path.read_text().replace(head, gemm))
    vouch(package)
    with pytest.raises(PackageError, match=f"rank-0/{name} is damaged .*{told}"):
        load(package)


NUMBERS = (0, 1, -1, 3, 65536, 2**31 - 1, 2**31, 2**62)
# whatever stands there, nothing is read elsewhere: small numbers in sums and norms, how many of the
# largest are kept
HARMLESS = {("RMSNorm", "1"), ("Attention", "3"), ("SDPA", "6"), ("BinaryOp", "2")}
MAY_BE_OTHERS = {("BinaryOp", "0"): {0, 1, 2, 3}, ("TopK", "0"): {1, 3, 65536}}
SOMEWHERE = {0, 1, 3, 65536}  # in the packed files, where numbers of other matrices are
MAY_BE_OTHERS |= {(LAYER, key): SOMEWHERE for key in ("4", "14", "24")}
MAY_BE_OTHERS |= {(LAYER, key): {-1} for key in ("5", "15", "25")}  # the size is what the shape takes
MAY_BE_OTHERS |= {(LAYER, key): SOMEWHERE | {-1} for key in ("6", "16", "26")}


def others_in(path: Path):
    """(layer, key, number, text): each number of the first layer of each kind made another."""
    lines = path.read_text().split("\n")
    first = {line.split()[0]: i for i, line in reversed(list(enumerate(lines))) if "=" in line}
    for kind, at in first.items():
        for word in (word for word in lines[at].split() if re.fullmatch(r"\d+=[-\d.e]+", word)):
            key, old = word.split("=")
            for number in {*NUMBERS} - {*map(int, re.findall(r"^-?\d+$", old))}:
                if (kind, key) not in HARMLESS and number not in MAY_BE_OTHERS.get((kind, key), ()):
                    changed = lines[at].replace(f" {word}", f" {key}={number}")
                    yield lines[at].split()[1], key, number, "\n".join([*lines[:at], changed, *lines[at + 1 :]])


@pytest.mark.parametrize("name", ["model.param", "fused.param"])
def test_every_number_of_a_layer_is_looked_at(package, name):
    path, manifest, files = package / "rank-0" / name, Manifest.load(package), WeightFiles.load(package / "rank-0")
    tried = 0
    for layer, key, number, text in others_in(path):
        path.write_text(text)
        with pytest.raises(PackageError, match=f"{name} is damaged") as wrong:
            check_graphs(package / "rank-0", files, manifest, 0)
        assert layer in str(wrong.value) or "its floats take" in str(wrong.value), (key, number, wrong.value)
        tried += 1
    assert tried > 80


@needs("the engine")
def test_every_number_of_a_layer_is_looked_at_without_python_too(package):
    folder, engine = package / "rank-0", cpp.load("_engine").Engine
    path, null = folder / "fused.param", cpp.load("_comm").null
    for layer, key, number, text in others_in(path):
        path.write_text(text)
        with pytest.raises(PackageError, match=rf"fused.param is damaged at line \d+ \({layer}, ") as wrong:
            engine(str(folder), null(), 1)
        assert "\n" not in str(wrong.value), (key, number)


SHAPES = [
    ("attention of heads that no linear makes", r"(Attention .*) 0=8", r"\1 0=65536", "65536"),
    ("heads of another size", r"(Attention .*) 2=16", r"\1 2=32", "32"),
    ("a norm of rows half as long", r"(RMSNorm .*) 0=128", r"\1 0=256", "256 numbers of a norm do not fit 128 x"),
    (
        "a residual read as an input",
        r"(QLinear .*down_proj +)2 1 (\S+) (\S+)",
        r"\g<1>2 1 \3 \2",
        "inputs do not fit",
    ),
]  # fmt: skip


@pytest.mark.parametrize("told", [case[0] for case in SHAPES])
def test_shapes_that_do_not_fit(package, told):
    """In Python, and in C++ alone."""
    old, new, said = next(case[1:] for case in SHAPES if case[0] == told)
    path = package / "rank-0" / "fused.param"
    text = re.sub(old, new, path.read_text(), count=1)
    assert text != path.read_text()
    path.write_text(text)
    vouch(package)
    with pytest.raises(PackageError, match=rf"rank-0/fused.param is damaged .*{said}"):
        load(package)
    if cpp.load("_engine"):
        with pytest.raises(PackageError, match=rf"fused.param is damaged at line .*{said}"):
            cpp.load("_engine").Engine(str(package / "rank-0"), cpp.load("_comm").null(), 1)


@pytest.mark.parametrize("old, new", [(" 0=128 ", f" 0={HUGE} "), (" 0=128 ", " 0=-128 ")])
def test_weights_longer_than_their_file(package, old, new):
    path = package / "rank-0" / "model.param"
    lines = path.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("RMSNorm"))
    assert old in lines[at]
    lines[at] = lines[at].replace(old, new)
    path.write_text("\n".join(lines))
    vouch(package)
    with pytest.raises(PackageError, match=r"model.param is damaged"):
        load(package)


@pytest.mark.parametrize(
    "old, new",
    [
        ("ranks 1", f"ranks {HUGE}"),
        ("rank 0", "rank -1"),
        ("context 512", f"context {HUGE}"),
        ("group 0", "group 7"),
        ("group 0", "group"),
        ("hidden 128", "hidden -128"),
        ("embed_rows 512", f"embed_rows {2**31}"),
        ("rope_scaling 1.0", "rope_scaling nan"),
        ("rope_scaling 1.0", "rope_scaling 1.0 1.0"),
        ("hidden 128", "hidden 99999999999999999999"),
        ("hidden 128", "hidden 0x80"),
        ("hidden 128", "hidden 128\nhidden 128"),
        ("window 0", "window -1"),
        ("group 0", "group 0 0"),
    ],
)
def test_a_rank_text_that_cannot_be(package, old, new):
    need("the engine")
    path = package / "rank-0" / "rank.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    vouch(package)
    with pytest.raises(PackageError, match="rank.txt is damaged .it says"):  # the manifest says otherwise
        load_engine(package, Alone(), "native")
    with pytest.raises(PackageError, match=r"rank.txt is damaged \(\w+: |this process is rank"):
        cpp.load("_engine").Engine(str(package / "rank-0"), cpp.load("_comm").null(), 1)


FILES = [
    ("floats weights/", "floats ../rank-0/weights/", "is no place for weights"),
    ("floats weights/", "floats /etc/", "is no place for weights"),
    ("floats weights/", "floats weights/../", "is no place for weights"),
    ("floats weights/", "floats weights/." + 60 * "x", "is no place for weights"),
    ("floats weights/", "embedding weights/", "it must name one file of floats"),
    ("packed 32768 weights/", "packed 32768 1 weights/", "is no place for weights"),
    ("packed 32768 ", "packed 32769 ", "packed files cannot lie at"),
    ("packed 32768 ", "packed -32768 ", "packed files cannot lie at"),
    ("packed 32768 ", "packed 0 ", "packed files cannot lie at"),
    ("packed 32768 ", f"packed {10**30} ", "is no whole number"),
    ("packed 32768 ", "packed 98304 ", "packed files cannot lie at"),
    ("packed 163840 ", "packed 196608 ", "which lies in none of 6 files"),
]


@pytest.mark.parametrize("old, new, told", FILES)
def test_weights_that_lie_elsewhere(package, old, new, told):
    path = package / "rank-0" / "rank.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    vouch(package)
    with pytest.raises(PackageError, match=told):
        load(package)
    if cpp.load("_engine"):
        with pytest.raises(PackageError):
            cpp.load("_engine").Engine(str(package / "rank-0"), cpp.load("_comm").null(), 1)


def test_a_file_that_reaches_into_the_next(package):
    with open(weight_path(package / "rank-0", "packed"), "r+b") as file:
        file.truncate((2 << 20) + 1)
    vouch(package)
    with pytest.raises(PackageError, match="reaches into the next file"):
        load(package)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "special_tokens.json"])
@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{% for", b'{"a": NaN}'])
def test_a_tokenizer_that_is_none(package, name, data):
    (package / name).write_bytes(data)
    with contextlib.suppress(MpsplitError):  # text is a template too
        load_text(package)


def test_the_command_line_says_it_in_one_line(package):
    edit_manifest(package, put("ranks", 0, "files", 0, "path", "../../etc/passwd"))
    assert "a path inside the package" in refused("run", package, "--prompt-ids", "1,2")
    assert "a path inside the package" in refused("inspect", package)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


MUTATE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["manifest.json", "rank-0/model.param", "rank-0/fused.param", "rank-0/rank.txt"])
@MUTATE
@given(seed=st.integers(0, 2**32))
def test_whatever_is_changed_it_is_refused_or_right(original, name, seed):
    path = original / name
    data, before = path.read_bytes(), resident()
    try:
        path.write_bytes(mutated(data, seed))
        with contextlib.suppress(MpsplitError):
            manifest = Manifest.load(original)
            if name == "manifest.json":
                manifest.check_files(original, 0)
            check_graphs(original / "rank-0", WeightFiles.load(original / "rank-0"), manifest, 0)
    finally:
        path.write_bytes(data)
    assert resident() - before < GROWTH


@pytest.fixture(scope="module")
def sealed(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "key").write_bytes(KEY)
    encrypt(original, folder / "package", Key(KEY))
    return folder


@pytest.mark.parametrize("name", ["manifest.json", "rank-0/weights", "rank-0/rank.txt"])
@MUTATE
@given(seed=st.integers(0, 2**32))
def test_whatever_is_changed_of_a_sealed_package_is_noticed(sealed, name, seed):
    package = sealed / "package"
    path = min((package / name).glob("*.bin")) if name.endswith("weights") else package / name
    data, before, whole = path.read_bytes(), resident(), Manifest.load(package)
    try:
        path.write_bytes(changed := mutated(data, seed))
        try:
            manifest = Manifest.load(package)
            authenticate(package, manifest, KeySource(str(sealed / "key")))
            assert changed == data or manifest == whole, "read as something else"
        except MpsplitError:
            pass
    finally:
        path.write_bytes(data)
    assert resident() - before < GROWTH


@needs("the engine")
@pytest.mark.parametrize("name", ["fused.param", "rank.txt", "floats"])
def test_the_engine_in_its_own_process_does_not_crash(package, name):
    """Its C++ alone, as mpsplit-rank runs it: without Python's look at the files before."""
    program = """
import sys, resource
from mpsplit.native import cpp
from mpsplit.errors import PackageError
from pathlib import Path
from tests.packages import mutated
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
path, folder = Path(sys.argv[1]), Path(sys.argv[2])
engine, null = cpp.load("_engine").Engine, cpp.load("_comm").null
data = path.read_bytes()
for seed in range(150):
    path.write_bytes(mutated(data, seed))
    print(seed, flush=True)
    try:
        engine(str(folder), null(), 1)
    except (PackageError, MemoryError):
        pass
"""
    folder = package / "rank-0"
    path = weight_path(folder) if name == "floats" else folder / name
    done = subprocess.run([sys.executable, "-c", program, path, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout.split()[-1:], done.stderr[-500:])
