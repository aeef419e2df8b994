"""Figures for Prometheus.

In: what was answered, and what the loop says when asked. Out: the text of /metrics.

No label holds anything a client chose: paths are those of the routes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mpsplit.comm.link_counts import NANO, no_longer
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.engine.engine_protocol import SHARED_WORK
from mpsplit.runtime.loop.loop_protocol import Generation, LoopLoad
from mpsplit.serve.service.served_loop import TurningLoop

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LINK = ["rank", "peer"]


class Metrics:
    def __init__(self, loop: TurningLoop):
        self.registry = CollectorRegistry()
        self.registry.register(_Now(loop))
        self._requests = self._counter("requests", "HTTP requests", ["path", "status"])
        self._answers = self._counter("answers", "Answers, by why they ended", ["finish_reason"])
        self._texts = self._counter("texts", "Texts, or pairs of them, that embeddings or scores were made of")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts, and of such texts")
        self._cached = self._counter("cached_tokens", "Tokens of prompts that were computed before")
        self._new = self._counter("new_tokens", "Tokens of answers")
        self._between = self._counter("bytes_between_ranks", "Bytes handed to the transport, all ranks")
        self._first = self._histogram("time_to_first_token_seconds", "From request to first token", FIRST_TOKEN)
        self._later = self._histogram(
            "time_per_token_seconds", "Of tokens after the first, mean of an answer", PER_TOKEN
        )

    def requested(self, path: str, status: int) -> None:
        self._requests.labels(path, status).inc()

    def answered(self, generation: Generation) -> None:
        stats = generation.stats
        self._answers.labels(generation.finish_reason).inc()
        self._prompt.inc(stats.prompt_tokens)
        self._cached.inc(stats.cached_tokens)
        self._new.inc(stats.new_tokens)
        self._between.inc(stats.bytes_between_ranks)
        if stats.new_tokens:
            self._first.observe(stats.time_to_first_token_s)
        if stats.decode_tok_s:
            self._later.observe(1 / stats.decode_tok_s)

    def read_texts(self, count: int, tokens: int) -> None:
        """For embeddings or scores."""
        self._texts.inc(count)
        self._prompt.inc(tokens)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"mpsplit_{name}", what, labels or [], registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"mpsplit_{name}", what, buckets=buckets, registry=self.registry)


class _Now:
    """Asked anew for each scrape."""

    def __init__(self, loop: TurningLoop):
        self.loop = loop

    def describe(self) -> list:
        return []

    def collect(self) -> Iterator[Metric]:
        load = self.loop.load()
        for name, what, value in (
            ("requests_running", "Requests that are answered now", load.running),
            ("requests_waiting", "Requests that wait for a place", load.waiting),
            ("page_tokens", "Tokens in a page of the cache", load.page_tokens),
        ):
            yield GaugeMetricFamily(f"mpsplit_{name}", what, value)
        if load.pages:
            yield from _pages(load)
        yield from _of_late(self.loop.ranks_now())
        yield from _in_all(self.loop.spent())


def _pages(load: LoopLoad) -> Iterator[Metric]:
    """Of the cache, where there is one."""
    pages = GaugeMetricFamily("mpsplit_pages", "Pages of the cache", labels=["state"])
    free = load.pages - load.pages_used - load.pages_kept
    for state, count in (("used", load.pages_used), ("kept", load.pages_kept), ("free", free)):
        pages.add_metric([state], count)
    yield pages


def _of_late(rows: list[dict]) -> Iterator[Metric]:
    """A row a rank."""
    shares = GaugeMetricFamily("mpsplit_rank_share", "Of the last seconds, by what a rank did", labels=["rank", "of"])
    memory = GaugeMetricFamily("mpsplit_rank_memory_bytes", "Memory of a rank", labels=["rank"])
    late = GaugeMetricFamily("mpsplit_rank_straggler", "1 where a rank makes the others wait, of late", labels=["rank"])
    for row in rows:
        rank = str(row["rank"])
        for kind in ("busy", "wait"):
            shares.add_metric([rank, kind], row[kind])
        memory.add_metric([rank], row["memory_bytes"])
        late.add_metric([rank], row["straggler"])
    return iter((shares, memory, late))


def _in_all(accounts: Sequence[Account]) -> Iterator[Metric]:
    """Since the start: time by kind of layer, and each link."""
    layers = CounterMetricFamily(
        "mpsplit_layer_seconds", "By kind of layer; between ranks with waiting", labels=["rank", "kind"]
    )
    work = CounterMetricFamily(
        "mpsplit_thread_seconds",
        "Work of several threads: shared; waited, of it one for another; alone, while others used the cores",
        labels=["rank", "work"],
    )
    sent = CounterMetricFamily("mpsplit_link_bytes", "From rank to peer", labels=LINK)
    messages = CounterMetricFamily("mpsplit_link_messages", "From rank to peer", labels=LINK)
    waits = HistogramMetricFamily("mpsplit_link_wait_seconds", "A message that rank waited for peer with", labels=LINK)
    for rank, account in enumerate(accounts):
        for kind, seconds in account.seconds().items():
            layers.add_metric([str(rank), kind], seconds)
        for name in SHARED_WORK:
            work.add_metric([str(rank), name.removeprefix("work_")], getattr(account, name) * NANO)
        for link in account.links(rank):
            ends = [str(rank), str(link.peer)]
            sent.add_metric(ends, link.bytes)
            messages.add_metric(ends, link.messages)
            buckets = [(f"{seconds:g}", count) for seconds, count in no_longer(account.passed[link.peer])]
            waits.add_metric(ends, [*buckets, ("+Inf", link.waits)], link.waited_s)
    return iter((layers, work, sent, messages, waits))
