"""README and the pages of docs/ are true: their commands run, and what they name is there.

A fenced block of `sh` is run as it stands, with the shipped model for MODEL; one of `sh thorough`
only under --thorough. A block of `text output` is what the block before it printed. Commands
elsewhere are not run, but they and their options must exist, and so must every path, heading and
name.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpsplit import __version__
from mpsplit.cli import build_parser
from mpsplit.mpirun import OPEN_MPI
from tests.missing import minilm, need
from tests.models import EXAMPLE
from tests.running import CLEAN

ROOT = Path(__file__).parents[1]
FRONT = ROOT / "README.md"
DOCS = [FRONT, *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("mpsplit", "extensions", "launch", "tests", "bench", "docs", "examples", "third_party")
NOTES = [ROOT / "NOTES.md", *sorted(p for room in ROOMS[:4] for p in (ROOT / room).rglob("NOTES.md"))]
PAGES = [*DOCS, *NOTES, ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", ROOT / "extensions" / "README.md"]
FENCE = re.compile(r"^```([\w ]*)\n(.*?)^```$", re.S | re.M)
MEASURED = re.compile(r" s;|ms\b|tok/s|\bbytes\b|logits|perplexity|MiB")  # lines whose numbers are another's tomorrow
NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]\d+)?")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each_page(pages=PAGES):
    return pytest.mark.parametrize("page", pages, ids=name_of)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path, kind: str) -> list[str]:
    return [body for language, body in FENCE.findall(text_of(page)) if language == kind]


def commands_to_run() -> list:
    """(page, block, what it prints), those for a thorough run marked."""
    found = []
    for page in DOCS:
        fences = FENCE.findall(text_of(page))
        for (language, body), (next_language, output) in zip(fences, [*fences, ("", "")][1:], strict=True):
            if language in ("sh", "sh thorough", "python"):
                case = (name_of(page), language, body, output if next_language == "text output" else "")
                marks = pytest.mark.thorough if language == "sh thorough" else ()
                found.append(pytest.param(*case, marks=marks, id=f"{case[0]}-{language}-{body.split()[1]}"))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the shipped examples in it, where the pages' commands run one after the
    other."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture(scope="module")
def run(place):
    """Runs a block once, as a shell with the environment activated would; gives what it printed."""
    environment = {**OPEN_MPI, **CLEAN, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # `python script.py` finds the tree that is tested, installed or not
    environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"

    @functools.cache
    def run(language: str, block: str) -> str:
        lines = [
            line
            for line in block.replace("MODEL", str(EXAMPLE)).replace("MINILM", str(minilm)).splitlines()
            if "activate" not in line
        ]
        program = "\n".join(lines)
        command = [sys.executable, "-c", program] if language == "python" else ["bash", "-ec", f"{program}\nwait"]
        both = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        done = subprocess.run(command, **both, text=True, cwd=place, env=environment, timeout=280, check=False)
        assert done.returncode == 0, f"{program}\n{done.stdout}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def package(run):
    """build/vicuna, which README makes and all pages use."""
    return run("sh", blocks_of(FRONT, "sh")[0])


@pytest.mark.seconds(600)
@pytest.mark.parametrize("page, language, block, output", commands_to_run())
def test_the_commands_work_and_print_what_the_page_says(package, run, page, language, block, output):
    if re.search("gloo|MPSPLIT_STORE", block):
        need("gloo")
    if "--form operator" in block:
        need("pnnx", "the torch operators")
    if "MINILM" in block:
        need("MiniLM")
    printed = run(language, block)
    words = " ".join(printed.split())
    for line in output.splitlines():
        wanted = re.escape(" ".join(line.split()))
        if MEASURED.search(line):
            wanted = NUMBER.sub(lambda number: NUMBER.pattern, wanted.replace(r"\-", "-").replace(r"\.", "."))
        assert re.search(wanted, words), f"{page} says\n{line}\nbut it printed\n{printed}"
    for command, check in CHECKS.items():
        if command in block:
            check(printed)


def says(*expected: str):
    def check(printed: str) -> None:
        assert all(text in printed for text in expected), printed

    return check


def check_a_run_in_json(printed: str) -> None:
    result = json.loads(next(line for line in printed.splitlines() if line.startswith('{"text"')))
    assert result["text"].strip() == "ROCKET reversed is TEKCOR." and result["finish_reason"] == "eos"
    stats = result["stats"]
    assert len(result["token_ids"]) == stats["new_tokens"] and len(stats["peak_rss_bytes"]) == 2
    assert stats["prefill_tok_s"] > 0 and stats["decode_tok_s"] > 0 and stats["bytes_between_ranks"] > 0
    assert stats["time_to_first_token_s"] > 0 and stats["prompt_tokens"] == 50


# by a piece of a block: what is true of all that the block printed
CHECKS = {
    "mpsplit verify build/vicuna MODEL\n": says("The answer is 143.", "the same: f32 on "),
    'run build/planned --prompt "Reverse': check_a_run_in_json,
    "inspect build/planned": says("collectives  11 all_reduce"),
    "--cluster cluster.json --compare": says("memory reads", "tok/s"),
    "prefix add": says("capitals:", "The capital of France is Paris."),
    '"What is the capital of Japan?"': says("The capital of Japan is Tokyo."),
    "chat.generate": says("The answer is 143."),
    "RANK=0 ": says("The answer is 143."),
    "--layers": says("the same: f32 on "),
    "--report": says("predicted", "where the time went"),
    "mpsplit --version": says(f"mpsplit {__version__}\n"),
    "mpsplit bench --random": says("llama-15m q4, 2 ranks x 1 thread", "prefill 512", "wait"),
}


def test_each_check_is_of_a_block():
    blocks = "".join(body for page in DOCS for _, body in FENCE.findall(text_of(page)))
    assert [command for command in CHECKS if command not in blocks] == []


# -- what is named exists -------------------------------------------------------------------------


def code_of(page: Path) -> list[str]:
    """Every line of code: of fenced and indented blocks, and between backticks."""
    text = text_of(page)
    fenced = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
    rest = FENCE.sub("", text)
    indented = re.findall(r"^ {4}(.*)$", rest, re.M)
    return [*fenced, *indented, *re.findall(r"`([^`]+)`", re.sub(r"^ {4}.*$", "", rest, flags=re.M))]


@functools.cache
def options_by_command() -> dict[str, set[str]]:
    commands = build_parser()._subparsers._group_actions[0].choices
    return {name: {o for action in sub._actions for o in action.option_strings} for name, sub in commands.items()}


@functools.cache
def options_of_others() -> set[str]:
    """Of our scripts, and of mpirun, Ray and pytest where pages name them."""
    scripts = [*(ROOT / "bench").rglob("*.py"), ROOT / "tests" / "conftest.py", *(ROOT / "launch").iterdir()]
    found = {option for script in scripts for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(script))}
    ray = {"--head", "--node-name", "--address", "--resources"}
    return found | ray | {"--version", "--help", "--nodes", "--hostfile", "--no-binary"}


@each_page()
def test_commands_and_options_exist(page):
    known = options_by_command()
    everywhere = options_of_others().union(*known.values())
    for line in code_of(page):
        line = re.sub("from mpsplit import .*", "", line.partition(" # ")[0])
        for command in re.findall(r"(?<![\w./-])mpsplit ([a-z].*?)(?=;|&|\||$| : )", line):
            name, _, rest = command.partition(" ")
            assert name in known, f"{line}: there is no mpsplit {name}"
            options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", re.sub(r'"[^"]*"', "", rest)))
            assert options <= known[name], f"{line}: mpsplit {name} has no {options - known[name]}"
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line))
        assert options <= everywhere, f"{line}: nothing has {options - everywhere}"
    for script in set(re.findall(r"(?<!\.)\./launch/([\w-]+)", text_of(page))):
        assert os.access(ROOT / "launch" / script, os.X_OK), f"there is no ./launch/{script}"


@each_page()
def test_paths_exist(page):
    """Those between backticks that begin with a room, from the root of the tree; `*` stands for
    any."""
    rooms = "|".join(ROOMS)
    for code in code_of(page):
        for path in re.findall(rf"(?<![\w./$-])((?:{rooms})/[\w./*-]*)", code):
            path = path.rstrip(".")
            assert "*" in path or (ROOT / path).exists(), f"there is no {path}"
            assert "*" not in path or list(ROOT.glob(path)), f"nothing is called {path}"


@each_page(sorted((ROOT / "docs").glob("*.svg")))
def test_paths_in_drawings_exist(page):
    """Which may leave out the rooms around."""
    files = [name_of(path) for room in ROOMS[:2] for path in (ROOT / room).rglob("*.*")]
    for path in re.findall(r"[\w/]+/\w+\.(?:py|cpp)", text_of(page)):
        assert any(file.endswith(f"/{path}") or file == path for file in files), f"there is no {path}"


@each_page()
def test_names_stand_where_the_page_says(page):
    """`name` in `path`."""
    for name, path in re.findall(r"`([\w.]+)`(?:\(\))? in\s+`([\w./-]+\.\w+)`", text_of(page)):
        assert re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", text_of(ROOT / path)), f"{path} has no {name}"


def anchors_of(page: Path) -> list[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@each_page([*PAGES, ROOT / "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"there is no {target}"
        assert not anchor or anchor in anchors_of(there), f"no heading is {target}"


def test_the_table_of_contents_lists_every_note():
    contents = text_of(NOTES[0])
    for page in NOTES[1:]:
        # below a title, what has text of its own
        for anchor in anchors_of(page)[1:]:
            link = f"({name_of(page)}#{anchor})"
            assert link in contents, f"NOTES.md lacks {link}"
        assert len(set(anchors_of(page))) == len(anchors_of(page)), f"{name_of(page)} has a heading twice"


def test_code_cites_notes_by_headings_that_exist():
    headings = {re.sub(r"[`*]", "", h) for page in NOTES for h in re.findall(r"^#+ (.*)$", text_of(page), re.M)}
    for room in ROOMS[:5]:
        for path in sorted(p for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".cpp", ".h")):
            if path == Path(__file__):
                continue
            for cited in re.findall(r"NOTES: ([^)\n]+)", text_of(path)):
                assert cited.strip() in headings, f"{name_of(path)} cites a note {cited!r} that is not there"


@each_page([*PAGES[:-1], ROOT / "CHANGELOG.md"])
def test_lines_are_short(page):
    assert [line for line in text_of(page).splitlines() if len(line) > 120] == []


def test_the_readme_is_read_standing():
    assert len(text_of(FRONT).splitlines()) <= 100
    linked = set(re.findall(r"\((docs/[\w-]+\.md)\)", text_of(FRONT)))
    assert linked == {name_of(page) for page in DOCS[1:]}, "README links every page of docs/"
    scripts = set(re.findall(r"\./launch/(\w+)", text_of(FRONT)))
    assert scripts >= {"demo", "test"}


def test_the_changelog_knows_this_version():
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text_of(ROOT / "CHANGELOG.md"), re.M)
    assert versions[0] == __version__
