"""`mpsplit prefix`, and --prefix of run and chat, on tiny-vicuna over two ranks."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import CLEAN

pytestmark = needs("the engine")
QUESTION = ["--prompt", "What is the capital of France?", "--json"]
SYSTEM = "You are asked about capitals, and you answer in one sentence. "


@pytest.fixture(scope="module")
def package(package_of, tmp_path_factory):
    return shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path_factory.mktemp("prefixes") / "package")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "system.txt"
    path.write_text(SYSTEM)
    return path


def mpsplit(*words, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "mpsplit", *map(str, words)], env=CLEAN, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_a_prefix_is_added_used_and_removed(package, text):
    printed = mpsplit("prefix", "add", package, "--name", "capitals", "--text-file", text)
    count = int(printed.split(" tokens")[0].split()[-1])
    assert "capitals" in mpsplit("prefix", "list", package)
    with_it = json.loads(mpsplit("run", package, "--prefix", "capitals", *QUESTION))
    without = json.loads(mpsplit("run", package, "--system", SYSTEM, *QUESTION))
    assert with_it["token_ids"] == without["token_ids"]
    assert (with_it["stats"]["cached_tokens"], without["stats"]["cached_tokens"]) == (count, 0)
    wrong = mpsplit("run", package, "--prefix", "capitals", "--raw", *QUESTION, code=2)
    assert "prefixes/capitals was made for a system message, not for raw prompts; use it with a chat" in wrong
    wrong = mpsplit("run", package, "--prefix", "capitals", "--system", "x", *QUESTION, code=2)
    assert "--prefix capitals is the system message; leave --system out" in wrong
    mpsplit("prefix", "remove", package, "--name", "capitals")
    assert "there are: none" in mpsplit("run", package, "--prefix", "capitals", *QUESTION, code=2)


def test_one_before_raw_prompts(package, text):
    mpsplit("prefix", "add", package, "--name", "raw", "--text-file", text, "--raw", "--kv", "q8")
    assert "raw prompts" not in mpsplit("prefix", "list", package)
    words = ["--raw", "--prompt", "Hello", "--json", "--max-new-tokens", "5"]
    with_it = json.loads(mpsplit("run", package, "--prefix", "raw", "--kv", "q8", *words))
    assert with_it["stats"]["cached_tokens"] >= 8
    computed = json.loads(mpsplit("run", package, "--prefix", "raw", *words))
    assert computed["kept"] == {"miss": "prefixes/raw belongs to another --kv; make it again"}
    assert computed["stats"]["cached_tokens"] == 0


def test_what_is_missing(package, text):
    assert "needs --name NAME and --text-file FILE" in mpsplit("prefix", "add", package, code=2)
    assert "cannot be read" in mpsplit("prefix", "add", package, "--name", "x", "--text-file", "no.txt", code=2)
    assert "is no name" in mpsplit("prefix", "add", package, "--name", "a/b", "--text-file", text, code=2)
