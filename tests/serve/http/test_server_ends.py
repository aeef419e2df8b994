"""SIGTERM and SIGINT: what runs is answered, what comes is refused, and the process ends well."""

import signal
import subprocess
import sys
import threading

import httpx
import openai
import pytest

from mpsplit.export.model.tokenizer_files import copy_tokenizer
from tests.models import EXAMPLE
from tests.running import CLEAN, hear_interrupts
from tests.serve.served import client_of

ASK = dict(model="fake", prompt="one two three", max_tokens=60)


@pytest.fixture
def process(tmp_path):
    """(the process, a client of it)"""
    copy_tokenizer(EXAMPLE, tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.serve.fake_server", tmp_path], stdout=subprocess.PIPE, text=True, env=CLEAN,
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    try:
        with client_of(child.stdout.readline().strip()) as client:
            yield child, client
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_and_waits_is_answered(process, number):
    child, client = process
    # the third waits
    streams = [iter(client.completions.create(**ASK, stream=True)) for _ in range(3)]
    next(streams[0])
    whole = []
    asking = threading.Thread(target=lambda: whole.append(client.completions.create(**ASK)))
    asking.start()
    while httpx.get(f"{client.base_url}".replace("/v1/", "/ranks")).json()["load"]["waiting"] < 2:
        pass
    child.send_signal(number)
    while httpx.get(f"{client.base_url}".replace("/v1/", "/health")).status_code == 200:
        pass
    with pytest.raises(openai.APIStatusError, match="about to end") as refused:
        client.completions.create(**ASK)
    assert refused.value.status_code == 503
    texts = ["".join(chunk.choices[0].text for chunk in stream) for stream in streams]
    asking.join()
    assert texts[1] == texts[2] == whole[0].choices[0].text and texts[1].endswith(texts[0]) and texts[0]
    assert child.wait(20) == 0 and child.stdout.read() == "ended\n"


def test_the_second_signal_cancels(process):
    child, client = process
    stream = iter(client.completions.create(**ASK | {"max_tokens": 400}, stream=True))
    next(stream)
    child.send_signal(signal.SIGINT)
    while httpx.get(f"{client.base_url}".replace("/v1/", "/health")).status_code == 200:
        pass
    child.send_signal(signal.SIGINT)
    with pytest.raises(openai.APIError, match="the server ended before the answer did"):
        list(stream)
    assert child.wait(20) == 0


def test_a_reader_who_never_reads_holds_up_nobody(process):
    """It has some seconds to take what was answered for it."""
    child, client = process
    with client.completions.with_streaming_response.create(**ASK, stream=True, logprobs=5):
        child.send_signal(signal.SIGTERM)
        assert child.wait(40) == 0
