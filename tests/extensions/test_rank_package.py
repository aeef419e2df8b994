"""What a rank without Python does about the package on its host: that it is not written meanwhile,
that all of it is in its place, that it is rank 0's, and that its cache has room."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from mpsplit.errors import PackageError
from mpsplit.native import cpp
from mpsplit.package.manifest import MANIFEST
from mpsplit.package.together.package_commit import COMMITTED
from mpsplit.package.together.package_lock import held
from tests.missing import needs
from tests.running import MPSPLIT, ROOT, rank_environment

pytestmark = needs("mpsplit-rank")
RESERVES = """
import sys
from pathlib import Path
from mpsplit.comm import world
from mpsplit.runtime.load import load_engine
from mpsplit.package.manifest import package_number
from mpsplit.runtime.loop.orders import Order, Orders, VERSION, greet
from mpsplit.runtime.loop.verbs import Verb
greet(load_engine(Path(sys.argv[1]), world()), world(), VERSION, package_number(Path(sys.argv[1])))
Orders(world()).give(Order(Verb.RESERVE, count=1 << 24))
world().wait()
"""


def started(command, rank, meet):
    environment = rank_environment(RANK=str(rank), WORLD_SIZE="2", MPSPLIT_STORE=str(meet), MPSPLIT_TIMEOUT="20")
    return subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def follower(package, meet):
    return started([cpp.folder() / "mpsplit-rank", package, "--threads", 1], 1, meet)


def run(package):
    return [*MPSPLIT, "run", package, "--prompt-ids", "5,6,7", "--max-new-tokens", "3", "--ignore-eos", "--json"]


@pytest.fixture
def hosts(package_of, tmp_path):
    """The package as it lies on two hosts."""
    package = package_of("llama", 2, 1)
    return [shutil.copytree(package, tmp_path / name / "package") for name in ("one", "other")]


def test_one_that_is_written_is_not_run(hosts, tmp_path):
    with held(hosts[0], "converted", writes=True):
        rank = follower(hosts[0], tmp_path)
        assert rank.wait(20) == 2
    told = rank.stderr.read()
    assert re.search(rf"package is being converted by process {os.getpid()} \(mpsplit.*, since ..:..\); wait", told), (
        told
    )


def test_one_that_is_run_is_not_written(hosts, tmp_path):
    rank = follower(hosts[0], tmp_path)
    while not list(hosts[0].glob(".in-use.*.json")):
        assert rank.poll() is None
        time.sleep(0.02)
    try:
        whose = rf"is being run by process {rank.pid} \(mpsplit-rank /.*, since ..:"
        with pytest.raises(PackageError, match=whose), held(hosts[0], "converted", writes=True):
            pass
        with held(hosts[0], "run"):
            assert len(list(hosts[0].glob(".in-use.*.json"))) == 2
    finally:
        rank.kill()
        rank.wait()
    with held(hosts[0], "converted", writes=True):
        assert len(list(hosts[0].glob(".in-use.*.json"))) == 1


def of_both(hosts, tmp_path, *others):
    ranks = [started(run(hosts[0]), 0, tmp_path), *(others or [follower(hosts[1], tmp_path)])]
    told = [rank.communicate(timeout=60) for rank in ranks]
    return [rank.returncode for rank in ranks], told


def test_a_conversion_that_was_interrupted_is_told(hosts, tmp_path):
    (hosts[1] / COMMITTED).mkdir()
    codes, told = of_both(hosts, tmp_path)
    assert codes[1] == 2 and f"run `mpsplit inspect {hosts[1]}` once on this host" in told[1][1], told
    subprocess.run([*MPSPLIT, "inspect", hosts[1]], env=rank_environment(), stdout=subprocess.DEVNULL, check=True)
    assert of_both(hosts, tmp_path)[0] == [0, 0]


def changed(package, how):
    manifest = json.loads((package / MANIFEST).read_text())
    how(manifest)
    (package / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("python", (True, False), ids=("Python", "without Python"))
def test_packages_of_two_hosts_that_differ_are_refused(hosts, tmp_path, python):
    changed(hosts[1], lambda manifest: manifest["tools"].update(pnnx="another one"))
    other = started(run(hosts[1]), 1, tmp_path) if python else follower(hosts[1], tmp_path)
    codes, told = of_both(hosts, tmp_path, other)
    whose = "another package than that of rank 0.*is what there is for rank 1"
    assert codes[0] == 2 and re.search(whose, told[0][1]), told
    if not python:
        assert "rank 1 has another package than rank 0, or another conversion of it; copy" in told[1][1], told


def test_what_verify_found_on_one_host_makes_no_other_package(hosts, tmp_path):
    found = json.loads((ROOT / "tests" / "fixtures" / "package-0.1" / MANIFEST).read_text())["verified"]
    for host in hosts:  # another test may have verified the package
        changed(host, lambda manifest: manifest.pop("verified", None))
    *entries, last = json.loads((hosts[1] / MANIFEST).read_text()).items()
    assert last[0] == "config"
    changed(hosts[1], lambda manifest: (manifest.clear(), manifest.update([*entries, ("verified", found), last])))
    assert of_both(hosts, tmp_path)[0] == [0, 0]


def test_a_cache_for_which_there_is_no_room_is_refused(hosts, tmp_path):
    """By the rank itself: rank 0 may have another machine, and looks at that one alone."""
    lead = started([sys.executable, "-c", RESERVES, hosts[0]], 0, tmp_path)
    rank = follower(hosts[1], tmp_path)
    lead.communicate(timeout=60)
    told = rank.communicate(timeout=60)[1]
    found = re.search(r"a cache of 536870912 tokens takes (\S+) GiB on this machine \(its ranks: 2\), and (\S+) GiB are"
                      r" left; --cache (\d+) fits here", told)  # fmt: skip
    assert rank.returncode == 2 and found and float(found[1]) > float(found[2]) and int(found[3]) % 32 == 0, told
