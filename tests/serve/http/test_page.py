"""The page in a real browser: somebody types a question and reads the answer while it comes."""

import pytest

from tests.missing import needs
from tests.serve.browser import Browser
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import served

pytestmark = needs("chromium")
ENTER, ESCAPE = 13, 27
SAID = "(document.querySelector('.assistant:last-child .said')?.textContent ?? '')"
ENDED = "document.querySelector('.assistant:last-child.ended') !== null"
FIGURES = "document.querySelector('.assistant:last-child .figures').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def ask(browser, question: str) -> None:
    browser.value("document.getElementById('question').focus()")
    browser.type(question)
    browser.press("Enter", ENTER)


def test_a_question_and_its_answer(browser, text):
    """The answer grows on the page; the server gets the conversation, and the settings."""
    with served(FakeLoop(text, seconds=0.02)) as (address, service):
        browser.open(address)
        browser.until(
            "document.querySelectorAll('.rank').length === 4 && document.querySelectorAll('.stage').length === 2"
        )
        browser.value("document.getElementById('longest').value = 40")
        ask(browser, "What is 57+86?")
        browser.until(f"{SAID}.length > 3")
        begun = browser.value(SAID)
        assert browser.value("document.getElementById('send').textContent") == "Stop"
        browser.until(ENDED)
        asked = [{"role": "user", "content": "What is 57+86?"}]
        whole = browser.value(SAID)
        assert whole == text.decode(text.chat(asked)[:40]).strip() and whole.startswith(begun) and begun != whole
        assert "tok/s · first token after 10 ms · 40 tokens · 1.0 KiB" in browser.value(FIGURES)
        ask(browser, "And now?")
        browser.until(f"document.querySelectorAll('.assistant').length === 2 && {ENDED}")
        asked += [{"role": "assistant", "content": whole}, {"role": "user", "content": "And now?"}]
        assert list(service.loop.requests[-1].prompt) == text.chat(asked)
        assert "fake · 4 ranks" in browser.value("document.getElementById('model').textContent")
    assert not browser.complaints


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop(browser, text, how):
    with served(FakeLoop(text, seconds=0.02)) as (address, service):
        browser.open(address)
        browser.value("document.getElementById('longest').value = 400")
        ask(browser, "Tell me all of it.")
        browser.until(f"{SAID}.length > 3")
        browser.value("document.getElementById('send').click()") if how == "button" else browser.press("Escape", ESCAPE)
        browser.until(ENDED)
        assert service.loop.idle() and "stopped" in browser.value(FIGURES)


def test_it_asks_for_the_key(browser, text):
    with served(FakeLoop(text), keys=(b"the-key-of-the-page",)) as (address, _):
        browser.open(address)
        browser.until("document.getElementById('ranks').textContent.includes('API key is needed')")
        ask(browser, "Hello")
        browser.until("document.querySelector('.wrong')?.textContent.includes('API key is needed')")
        browser.until("document.activeElement.id === 'key'")
        browser.type("the-key-of-the-page")
        browser.until("document.querySelectorAll('.rank').length === 4")
        ask(browser, "Hello")
        browser.until(f"{ENDED} && {SAID}.length > 3")
    browser.complaints.clear()  # the browser notes each 401
