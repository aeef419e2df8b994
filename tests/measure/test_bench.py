"""The measuring, with expectations as formulas in rank and size. On 1, 2 and 4 ranks."""

import pytest

from mpsplit.measure.bench import Bench, Work, measure, meetings, weight_bytes
from mpsplit.package.collectives import Call
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.load import load_engine
from tests.cases import splits


def test_the_context_limits_the_work():
    assert Work.within(2048) == Work((128, 512), 64)
    assert Work.within(512) == Work((128,), 64)
    assert Work.within(128) == Work((64,), 64) and Work.within(20) == Work((10,), 10)


@pytest.mark.mpi
def test_a_speed_adds_up(world, package_of):
    for tensor, pipeline in splits(world.size):
        package = package_of("llama", tensor, pipeline)
        manifest = Manifest.load(package)
        bench = Bench(load_engine(package, world), world, 1, 50, Work((60, 7), 5))
        speed = measure(bench, 2, shape="llama", quant="f32")
        assert set(speed.prefill) == {7, 60} and min(*speed.prefill.values(), speed.decode) > 0
        assert sum(speed.share.values()) == pytest.approx(1, abs=1e-6) and min(speed.share.values()) >= 0
        sends = sum(call.operator != "recv" for part in manifest.ranks for call in part.schedule)
        assert speed.bytes_per_token == 4 * manifest.facts.hidden * sends
        assert (speed.share["compute"] == 1) == (world.size == 1)
        assert len(speed.peak_rss_bytes) == world.size and min(speed.peak_rss_bytes) > 1 << 20
        weights = sum(weight_bytes(manifest, rank) for rank in range(world.size))
        assert speed.weights_gb_s == pytest.approx(weights / 1e9 * speed.decode)
        assert speed.read_gb_s is None or speed.read_gb_s > 0
        assert repr(speed) == world.exchange(repr(speed))[0]  # what rank 0 tells is what all found


@pytest.mark.mpi
def test_every_send_meets_its_recv(world, package_of):
    manifest = Manifest.load(package_of("llama", *splits(world.size)[-1]))
    for together in zip(*(meetings(manifest, rank) for rank in range(world.size)), strict=True):
        taking_part = [(rank, call) for rank, call in enumerate(together) if call]
        if any(call.operator in ("send", "recv") for _, call in taking_part):
            (a, first), (b, second) = taking_part
            assert {first, second} == {Call("send", (0, b)), Call("recv", (0, a))} or {first, second} == {
                Call("send", (0, a)),
                Call("recv", (0, b)),
            }
