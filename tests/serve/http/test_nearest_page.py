"""The page of a model that reads texts, in a real browser: the nearest first, or what is wrong."""

import pytest

from tests.missing import needs
from tests.serve.browser import Browser
from tests.serve.text_server import text_served

pytestmark = needs("chromium")
ORDER = "[...document.querySelectorAll('#nearest span')].map((span) => span.textContent).join('|')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("task, texts, first", [("embed", "zzz\nab", "ab"), ("rerank", "xyz\na cab", "a cab")])
def test_the_nearest_first(browser, tmp_path, task, texts, first):
    with text_served(tmp_path, task) as (address, _):
        browser.open(address)
        browser.until("document.getElementById('model').textContent.startsWith('reader')")
        browser.value("document.getElementById('query').value = 'ab'")
        browser.value(f"document.getElementById('texts').value = {texts!r}")
        browser.value("document.getElementById('form').requestSubmit()")
        browser.until(f"{ORDER} === '{first}|{texts.partition(chr(10))[0]}'")
        if task == "embed":
            assert browser.value("document.querySelector('#nearest b').textContent") == "1.000"
        browser.value(f"document.getElementById('query').value = '{'a' * 40}'")
        browser.value("document.getElementById('form').requestSubmit()")
        browser.until("document.getElementById('wrong').textContent.includes('tokens, the model takes 1 to')")
