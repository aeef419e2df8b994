"""Commands of their own mpirun at one package: one writes it or many run it, and whoever is refused
hears by whom."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import httpx
import pytest

from tests.missing import needs
from tests.models import EXAMPLE
from tests.packages import digests
from tests.running import CLEAN, MPSPLIT

pytestmark = [needs("the engine"), pytest.mark.seconds(120)]


def started(*command):
    return subprocess.Popen(
        [*MPSPLIT, *map(str, command)], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def convert(package, *more):
    return started("convert", package, "--ranks", 2, "--no-calibrate", *more)


def refused(command, whole_message):
    _, said = command.communicate(timeout=60)
    assert command.returncode == 2 and re.fullmatch(rf"mpsplit: rank 0: {whole_message}\n", said), said


@pytest.fixture
def package(package_of, tmp_path):
    return shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path / "package")


def test_one_that_is_served_is_not_written(package):
    before, server = digests(package), started("serve", package, "--port", 0)
    try:
        said = server.stdout.readline()
        address = re.search(r"http://127.0.0.1:\d+", said)[0]
        whose = rf"{package} is being run by process \d+ \(mpsplit serve {package} --port 0, since ..:..\); wait for .*"
        refused(convert(package, "--quant", "q4"), whose)
        refused(started("partition", EXAMPLE, "--out", package, "--pipeline", 2, "--force"), whose)
        assert digests(package) == before
        ask = dict(prompt="Hello", max_tokens=3, ignore_eos=True, temperature=0)
        reply = httpx.post(f"{address}/v1/completions", json=ask, timeout=60)
        assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 3
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0 and list(package.glob(".*")) == []
    assert convert(package, "--quant", "q4").wait(60) == 0 and digests(package) != before


def test_of_two_conversions_the_second_is_refused(package):
    first = convert(package, "--quant", "q4")
    while not (files := list(package.glob(".in-use.*.json"))):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.0005)
    holder = json.loads(files[0].read_text())
    os.kill(holder["pid"], signal.SIGSTOP)  # in the middle
    try:
        assert first.poll() is None and holder["doing"] == "converted"
        refused(convert(package), rf"{package} is being converted by process {holder['pid']} \(mpsplit convert .*")
    finally:
        os.kill(holder["pid"], signal.SIGCONT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 0, said
    with_four_bits = digests(package)
    assert convert(package, "--quant", "q4").wait(60) == 0 and digests(package) == with_four_bits
    assert list(package.glob(".*")) == []
