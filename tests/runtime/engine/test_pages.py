"""Pages: who holds what, what is found again, and that none is ever lost; against a cache that is a
dictionary of tokens."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpsplit.runtime.engine.pages import PAGE, Pages, pages_of

LENGTHS = st.sampled_from([1, 2, 5, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 7, 3 * PAGE])


def fed(pages, tokens):
    """A request that has fed all its tokens."""
    held, known = pages.begin(tokens)
    assert pages.grow(held, len(tokens))
    pages.filled(held, tokens)
    return held, known


def test_what_begins_alike_is_found_again_while_it_runs_and_after():
    pages, prompt = Pages(8), list(range(70))
    first, known = fed(pages, prompt)
    assert known == 0 and len(first.pages) == 3
    second, known = fed(pages, [*prompt[:64], 1, 2])
    assert known == 64 and second.pages[:2] == first.pages[:2] and second.pages[2] != first.pages[2]
    pages.release(first, prompt)
    pages.release(second, [*prompt[:64], 1, 2])
    assert pages.available == 8 and len(pages.kept) == 4
    third, known = fed(pages, [*prompt, 99])
    assert known == 70 and third.pages == [0, 1, 2]  # the rest of the first one's last page too


def test_one_token_is_always_left_to_feed():
    for count in (1, 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE):
        pages, prompt = Pages(4), list(range(count))
        pages.release(fed(pages, prompt)[0], prompt)
        assert pages.begin(prompt)[1] == (count - 1 if count % PAGE else count - PAGE)


def test_what_was_not_used_for_longest_goes_first():
    pages = Pages(3)
    for start in (0, 100, 200):
        tokens = list(range(start, start + PAGE))
        pages.release(fed(pages, tokens)[0], tokens)
    pages.begin([*range(PAGE), 5])[0]  # held
    held, _ = pages.begin([9])
    assert pages.grow(held, PAGE) and pages.evicted == 1
    assert pages.begin([*range(200, 200 + PAGE), 5])[1] == PAGE and pages.begin([*range(100, 100 + PAGE), 5])[1] == 0
    assert not pages.grow(pages.begin([8])[0], 1)


def test_other_salts_find_nothing_and_all_find_what_has_none():
    """To the single token: of whole pages, and of one that is not."""
    pages, prompt = Pages(8), list(range(2 * PAGE + 5))
    held, known = pages.begin(prompt, "key 0")
    assert pages.grow(held, len(prompt))
    pages.release(held, prompt)
    for count in (5, 9, PAGE, 2 * PAGE):
        for salt in ("key 1", ""):
            assert pages.begin([*prompt[:count], 99], salt)[1] == 0
    assert pages.begin([*prompt, 99], "key 0")[1] == len(prompt)
    held, _ = pages.begin([7] * 40)
    assert pages.grow(held, 40)
    pages.release(held, [7] * 40)
    for salt in ("key 0", "key 1"):
        assert pages.begin([7] * 50, salt)[1] == (40 if salt == "key 0" else PAGE)  # one takes over what is not whole


class Requests(RuleBasedStateMachine):
    """Requests of few different tokens come, go on and go; `memory` is what is written in each
    page."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.pages, self.running, self.memory = Pages(12, lambda: self.now), [], {}

    @rule(start=st.integers(0, 2), length=LENGTHS, other=st.integers(0, 70), salt=st.sampled_from(["", "a", "b"]))
    def begin(self, start, length, other, salt):
        tokens = [(start + i // (1 + other)) % 3 for i in range(length)]
        held, known = self.pages.begin(tokens, salt)
        assert known < length
        self.check(held, tokens[:known])
        self.running.append([held, tokens, known])

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=LENGTHS)
    def go_on(self, data, count):
        request = data.draw(st.sampled_from(self.running))
        held, tokens, written = request
        tokens = request[1] = [*tokens[:written], *(tokens[written:] or [7] * count)]
        if not self.pages.grow(held, len(tokens)):
            request[1] = tokens[:written]
            return
        for at in range(written, len(tokens)):
            page = held.pages[at // PAGE]
            assert sum(page in other.pages for other, *_ in self.running) == 1, "written by one, held by another"
            self.memory[page, at % PAGE] = held.salt, tokens[at]
        request[2] = len(tokens)
        self.pages.filled(held, tokens)
        self.check(held, tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        held, tokens, written = request
        self.check(held, tokens[:written])
        self.pages.release(held, tokens[:written])

    @rule(idle=st.integers(0, 3))
    def forget(self, idle):
        self.now += 1
        young = [node for node, since in self.pages.kept.items() if self.now - since < idle]
        forgotten = self.pages.forget(idle)
        assert list(self.pages.kept) == young and len(set(forgotten)) == len(forgotten)
        assert set(forgotten) <= set(self.pages.free), "forgotten, and held"
        self.memory = {place: token for place, token in self.memory.items() if place[0] not in forgotten}
        assert not {page for page, _ in self.memory} & set(self.pages.free), "free, and not forgotten"

    def check(self, held, tokens):
        assert len(held.pages) >= pages_of(len(tokens))
        written = [self.memory[held.pages[at // PAGE], at % PAGE] for at in range(len(tokens))]
        assert [token for _, token in written] == tokens
        assert {salt for salt, _ in written} <= {held.salt, ""}, "another's tokens"

    @invariant()
    def every_page_is_somewhere_once(self):
        own_pages = [page for held, *_ in self.running for page in held.own]
        tree, todo = [], list(self.pages.root.after.values())
        while todo:
            node = todo.pop()
            tree.append(node)
            todo += node.after.values()
            assert (node in self.pages.kept) == (node.holders == 0)
        assert sorted([*self.pages.free, *own_pages, *(node.page for node in tree)]) == list(range(self.pages.count))
        assert self.pages.add_up(held for held, *_ in self.running)
        assert self.pages.used == len(own_pages) + sum(node.holders > 0 for node in tree)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
