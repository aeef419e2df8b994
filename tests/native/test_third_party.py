"""What is built from elsewhere: only what the pin names is unpacked, and a failure says why."""

import io
import subprocess
import tarfile

import pytest

from mpsplit.native import third_party
from mpsplit.native.third_party import FetchError, Pin, sources
from mpsplit.package.whole_files import sha256


def archive(path):
    with tarfile.open(path, "w:gz") as tar:
        for name in ("CMakeLists.txt", "tools/pnnx/main.cpp", "tools/other/main.cpp"):
            entry = tarfile.TarInfo(f"thing-1/{name}")
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"hello"))
    return path


@pytest.fixture
def thing(tmp_path, monkeypatch):
    """A pinned archive and an index that has it: (set the pin's hash, the cache, how often the
    index was asked)."""
    made, asked = archive(tmp_path / "made.tar.gz"), []
    monkeypatch.setattr(third_party, "PINS", tmp_path)
    (tmp_path / "thing").mkdir()

    def index(command, **_):
        if "unearth" in command:
            asked.append(command)
            folder = command[command.index("--download") + 1]
            with open(f"{folder}/thing-1.tar.gz", "wb") as file:
                file.write(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(third_party.leash, "run", index)

    def pin(digest):
        (tmp_path / "thing" / "pin").write_text(f"thing 1 sha256:{digest}\n")

    pin(sha256(made))
    return pin, tmp_path / "cache", asked


def test_sources_are_fetched_once(thing):
    _, cache, asked = thing
    for _ in range(2):
        assert (sources("thing", cache) / "CMakeLists.txt").read_text() == "hello"
    assert len(asked) == 1 and "thing==1" in asked[0]


def test_a_part_of_the_sources(thing):
    _, cache, _ = thing
    unpacked = sources("thing", cache, "tools/pnnx")
    assert [path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*.*")] == ["tools/pnnx/main.cpp"]


def test_another_hash_is_refused_and_nothing_stays(thing):
    pin, cache, _ = thing
    pin("0" * 64)
    with pytest.raises(FetchError, match="the pin says 0000.*nothing was unpacked"):
        sources("thing", cache)
    assert not list((cache / "sources").iterdir())


def test_an_index_out_of_reach(thing, monkeypatch):
    _, cache, _ = thing
    failed = subprocess.CompletedProcess([], 1, "", "some lines\nno route to host\n")
    monkeypatch.setattr(third_party.leash, "run", lambda *_, **__: failed)
    with pytest.raises(FetchError, match=r"thing==1 cannot be fetched \(no route to host\)"):
        sources("thing", cache)


def test_a_pin_that_is_none(thing):
    pin, cache, _ = thing
    pin("short")
    with pytest.raises(FetchError, match="is no pin; it holds one line"):
        sources("thing", cache)


def test_the_pins_of_the_tree():
    assert Pin.of("ncnn").version.startswith("1.0.")
    assert Pin.of("pnnx").name == "sr-vulkan"
