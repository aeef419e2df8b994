"""Which page of the cache holds what.

In: tokens of requests. Out: page numbers; two requests that begin alike share them.

A page holds the keys and values of PAGE neighbouring tokens, on every rank under the same number.
Keys and values depend on all tokens before, so pages form a tree: a page is known by its tokens and
the page before it. A request holds the way from the root to where it is; whole pages join the tree
as they are filled, and stay in it when the request has ended, until the room is needed: those that
nobody held for the longest time go first. The last page of an ended request is not whole; whoever
goes on from there takes it over. `forget` gives up earlier what nobody used for long.

Nodes are salted: a request finds those of its own salt, and those without one, which named prefixes
have. What others asked leaves no trace in what it finds. Invariant: every page is free, in the
tree, or one request's own.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

PAGE = 32  # tokens; as KeyValueCache::page_positions
UNUSED = 3600.0  # seconds for which what nobody uses is kept, unless its room is needed
Key = tuple[str, tuple[int, ...]]  # of a node below the one before it: its salt, its tokens


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE)


@dataclass(eq=False)
class PageNode:
    """A page in the tree; `holders` are running requests."""

    page: int
    key: Key
    before: PageNode | None
    holders: int = 0
    after: dict[Key, PageNode] = field(default_factory=dict)


@dataclass
class HeldPages:
    """What a request of this salt holds: `pages` in the order of its tokens, the way through the
    tree, and pages that are its own."""

    salt: str = ""
    pages: list[int] = field(default_factory=list)
    way: list[PageNode] = field(default_factory=list)
    own: list[int] = field(default_factory=list)


class Pages:
    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self.count, self.clock = count, clock
        self.free = list(range(count - 1, -1, -1))
        self.written: set[int] = set()  # of the free ones, those that may hold memory
        self.root = PageNode(-1, ("", ()), None)
        # in the tree, held by nobody: since when, the longest unused first
        self.kept: OrderedDict[PageNode, float] = OrderedDict()
        self.evicted = 0  # pages given up so far

    @property
    def available(self) -> int:
        return len(self.free) + len(self.kept)

    @property
    def used(self) -> int:
        """By running requests."""
        return self.count - self.available

    def add_up(self, held: Iterable[HeldPages]) -> bool:
        """Whether every page is free, kept, or held by these, and none is twice."""
        idle = [*self.free, *(node.page for node in self.kept)]
        taken = {page for each in held for page in (*each.pages, *(node.page for node in each.way))}
        return len(idle) == len(set(idle)) == self.count - len(taken) and taken.isdisjoint(idle)

    def begin(self, tokens: Sequence[int], salt: str = "") -> tuple[HeldPages, int]:
        """What is known of a request's tokens, and how many that are; the last token is never among
        them, for its logits are wanted."""
        held, known, most = HeldPages(salt), 0, len(tokens) - 1
        node = self.root
        while known + PAGE <= most and (following := _after(node, salt, tokens[known : known + PAGE])):
            node, known = following, known + PAGE
            self._hold(node)
            held.way.append(node)
            held.pages.append(node.page)
        return held, known + self._take_over(node, tokens[known:most], held)

    def missing(self, held: HeldPages, tokens: int) -> int:
        """How many pages more it takes to hold so many tokens."""
        return max(0, pages_of(tokens) - len(held.pages))

    def grow(self, held: HeldPages, tokens: int) -> bool:
        """Room for so many tokens; nothing is done where there are not enough pages."""
        missing = self.missing(held, tokens)
        if missing > self.available:
            return False
        for _ in range(missing):
            page = self.free.pop() if self.free else self._give_up()
            self.written.discard(page)
            held.own.append(page)
            held.pages.append(page)
        return True

    def filled(self, held: HeldPages, tokens: Sequence[int]) -> None:
        """The cache holds these tokens of the request: pages that became whole join the tree."""
        while (len(held.way) + 1) * PAGE <= len(tokens):
            at = len(held.way)
            node = held.way[-1] if held.way else self.root
            key = held.salt, tuple(tokens[at * PAGE : (at + 1) * PAGE])
            # or else two requests computed the same at once, and one page is enough to know
            if key not in node.after:
                node.after[key] = PageNode(held.pages[at], key, node)
                held.own.remove(held.pages[at])
            self._hold(node.after[key])
            held.way.append(node.after[key])

    def release(self, held: HeldPages, tokens: Sequence[int]) -> None:
        """The request has ended, and the cache holds these tokens of it."""
        self.filled(held, tokens)
        at = len(held.way)
        rest = tuple(tokens[at * PAGE :])
        node = held.way[-1] if held.way else self.root
        key = held.salt, rest
        if rest and key not in node.after:
            last = node.after[key] = PageNode(held.pages[at], key, node)
            held.own.remove(last.page)
            self.kept[last] = self.clock()
        self.free += held.own
        self.written.update(held.own)
        # from the end, so that what comes after is given up before it
        for node in reversed(held.way):
            node.holders -= 1
            if not node.holders:
                self.kept[node] = self.clock()
        held.pages, held.way, held.own = [], [], []

    def forget(self, idle: float) -> list[int]:
        """Gives up what nobody used for so many seconds. The free pages whose memory is of no use
        any more; each is named once."""
        while self.kept and self.clock() - next(iter(self.kept.values())) >= idle:
            page = self._give_up()
            self.free.append(page)
            self.written.add(page)
        pages, self.written = sorted(self.written), set()
        return pages

    def _hold(self, node: PageNode) -> None:
        node.holders += 1
        self.kept.pop(node, None)

    def _take_over(self, node: PageNode, tokens: Sequence[int], held: HeldPages) -> int:
        """The page after the node that begins most like the tokens, where it is not whole; how many
        of its tokens are theirs."""
        most, best = 0, None
        for (salt, theirs), other in node.after.items():
            if salt in (held.salt, "") and len(theirs) < PAGE and (same := common(theirs, tokens)) > most:
                most, best = same, other
        if best:
            del node.after[best.key], self.kept[best]
            held.own.append(best.page)
            held.pages.append(best.page)
        return most

    def _give_up(self) -> int:
        node, _ = self.kept.popitem(last=False)
        assert node.before and not node.after and not node.holders
        del node.before.after[node.key]
        self.evicted += 1
        return node.page


def _after(node: PageNode, salt: str, tokens: Sequence[int]) -> PageNode | None:
    key = tuple(tokens)
    return node.after.get((salt, key)) or node.after.get(("", key))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens are the same before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
