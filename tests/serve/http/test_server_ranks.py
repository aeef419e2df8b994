"""A server over two real ranks, as a user starts it:

OpenAI's client, streaming and not, several at once, and the end of all ranks.
"""

import json
import random
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from mpsplit import mpirun
from mpsplit.mpirun import OPEN_MPI, PASS_SIGNALS
from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, descendants, gone, hear_interrupts
from tests.serve.served import client_of

ANSWERS = {
    "What is 57+86?": "7+6=13, 5+8+1=14. The answer is 143.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "Which day comes after Monday?": "The day after Monday is Tuesday.",
    "Reverse the word ROCKET.": "ROCKET reversed is TEKCOR.",
}


@pytest.fixture(scope="module")
def package(package_of, tmp_path_factory):
    """A copy, for there will be prefixes and sessions in it."""
    return shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path_factory.mktemp("served") / "package")


def started(command: list) -> tuple[subprocess.Popen, str]:
    """The process, and the address that its one line says."""
    child = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env={**OPEN_MPI, **PASS_SIGNALS, **CLEAN},
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    said = child.stdout.readline()
    found = re.fullmatch(r"vicuna at (http://127.0.0.1:\d+), over 2 ranks; cache: [\d,]+ tokens .*\n", said)
    assert found, said
    return child, found[1]


@pytest.fixture(scope="module")
def running(package):
    command = [mpirun.find_mpirun(), "-np", 2, *MPSPLIT, "serve", package, "--port", 0, "--model-name", "vicuna"]
    child, address = started(command)
    try:
        yield child, address
    finally:
        child.terminate()  # killed, mpirun would leave its ranks behind
        child.wait()
        child.stdout.close()


@pytest.fixture
def client(running):
    with client_of(running[1]) as client:
        yield client


def ask(client, question: str, **wishes):
    return client.chat.completions.create(model="vicuna", messages=[{"role": "user", "content": question}], **wishes)


def test_answers(client):
    for question, right in ANSWERS.items():
        answer = ask(client, question)
        assert answer.choices[0].message.content.strip() == right and answer.choices[0].finish_reason == "stop"
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, question, stream=True))
        assert streamed == answer.choices[0].message.content
    own = answer.usage.mpsplit
    assert own["bytes_between_ranks"] > 0 and own["tok_s"] > 0 and own["time_to_first_token_s"] > 0


def test_many_at_once_get_what_each_gets_alone(client):
    questions = list(ANSWERS) * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: ask(client, question).choices[0].message.content.strip(), questions))
    assert answers == [ANSWERS[question] for question in questions]


def test_the_same_seed_gives_the_same(client):
    wishes = dict(model="vicuna", prompt="A", temperature=2, seed=7, max_tokens=30, n=2)
    first, again = ([choice.text for choice in client.completions.create(**wishes).choices] for _ in range(2))
    assert first == again and first[0] != first[1]


def test_who_leaves_gives_up_the_place(client, running):
    for _ in range(12):  # more than run at once
        stream = client.completions.create(
            model="vicuna", prompt="A", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    while httpx.get(f"{running[1]}/ranks").json()["load"]["running"]:
        pass
    assert httpx.get(f"{running[1]}/ranks").json()["load"]["pages_used"] == 0


def test_figures_and_ranks(running):
    assert [row["rank"] for row in httpx.get(f"{running[1]}/ranks").json()["ranks"]] == [0, 1]
    figures = httpx.get(f"{running[1]}/metrics").text
    assert 'mpsplit_requests_total{path="/v1/chat/completions",status="200"}' in figures
    assert float(re.search(r"^mpsplit_bytes_between_ranks_total (\S+)$", figures, re.M)[1]) > 0
    for ends in ('peer="1",rank="0"', 'peer="0",rank="1"'):
        assert float(re.search(f"^mpsplit_link_bytes_total{{{ends}}} (.*)$", figures, re.M)[1]) > 0
    assert 'mpsplit_layer_seconds_total{kind="linear",rank="1"}' in figures


@pytest.mark.parametrize("command", [["mpirun"], []])
def test_sigterm_answers_what_runs_and_ends_all_ranks(package, command):
    begin = [mpirun.find_mpirun(), "-np", 2] if command else []
    child, address = started([*begin, *MPSPLIT, "serve", package, "--port", 0, "--model-name", "vicuna"])
    ranks = [pid for pid, _ in descendants(child.pid)]
    with client_of(address) as client:
        stream = client.completions.create(
            model="vicuna", prompt="A", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        next(chunks)
        child.send_signal(signal.SIGTERM)
        *_, last = chunks
    assert last.choices[0].finish_reason == "length" and child.wait(30) == 0 and gone(ranks)
    child.stdout.close()


def test_a_long_prompt_slides(client):
    prompt = [5 + i % 99 for i in range(600)]
    wishes = dict(model="vicuna", max_tokens=12, temperature=0)
    slid = client.completions.create(prompt=prompt, **wishes, extra_body={"when_full": "slide"})
    by_hand = client.completions.create(prompt=prompt[:64] + prompt[64 - 500 :], **wishes)
    assert slid.choices[0].text == by_hand.choices[0].text and slid.usage.mpsplit["left_out"] == 100


def test_json(client):
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    told = ask(client, "What is 57+86?", response_format=wanted, max_tokens=100).choices[0]
    answer = json.loads(told.message.content)
    assert told.finish_reason == "stop" and answer.keys() == {"answer"} and 0 <= answer["answer"] <= 999


needs_native = needs("the engine")
SYSTEM = "You are asked about capitals, and you answer in one sentence. You never say more than you were asked for."


def cached(told) -> int:
    return told.usage.prompt_tokens_details.cached_tokens


@needs_native
def test_a_prefix_by_name(package, tmp_path, client):
    (tmp_path / "system.txt").write_text(SYSTEM)
    add = [*MPSPLIT, "prefix", "add", package, "--name", "capitals", "--text-file", tmp_path / "system.txt"]
    subprocess.run(list(map(str, add)), env=CLEAN, check=True, capture_output=True, timeout=60)
    question = [{"role": "user", "content": "What is the capital of Japan?"}]
    greedy = dict(model="vicuna", temperature=0, max_tokens=40)
    by_name = client.chat.completions.create(messages=question, extra_body={"prefix": "capitals"}, **greedy)
    written = client.chat.completions.create(messages=[{"role": "system", "content": SYSTEM}, *question], **greedy)
    assert by_name.choices[0].message.content == written.choices[0].message.content and cached(by_name) >= 32
    told = package / "prefixes" / "capitals" / "kept.json"
    shutil.copytree(told.parent, told.parent.with_name("other"))
    other = told.parent.with_name("other") / "kept.json"
    other.write_text(other.read_text().replace(json.loads(other.read_text())["whose"], "0" * 64))
    of_others = client.chat.completions.create(messages=question, extra_body={"prefix": "other"}, **greedy)
    assert of_others.choices[0].message.content == written.choices[0].message.content
    assert by_name.usage.mpsplit["kept"]["hit"] >= 32
    assert "belongs to other weights" in of_others.usage.mpsplit["kept"]["miss"]
    for body, message in (
        (dict(messages=question, extra_body={"prefix": "nobody"}), "has no nobody among its prefixes"),
        (dict(messages=question, extra_body={"prefix": "../x"}), "is no name"),
        (
            dict(messages=[{"role": "system", "content": "x"}, *question], extra_body={"prefix": "capitals"}),
            "leave one",
        ),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.chat.completions.create(**body, **greedy)


@needs_native
def test_a_session_outlives_the_server(package):
    command = [*MPSPLIT, "serve", package, "--port", 0, "--model-name", "vicuna"]
    talk, told = [{"role": "user", "content": "What is 57+86?"}], []
    for _ in range(2):
        child, address = started(command)
        with client_of(address) as client:
            told.append(client.chat.completions.create(
                model="vicuna", messages=talk, temperature=0, max_tokens=60, extra_body={"session_id": "mine"}
            ))  # fmt: skip
        child.terminate()
        assert child.wait(30) == 0
        child.stdout.close()
        talk += [{"role": "assistant", "content": told[0].choices[0].message.content.strip()}]
        talk += [{"role": "user", "content": "What is the capital of Japan?"}]
    first = told[0].usage
    assert cached(told[0]) == 0 and cached(told[1]) >= first.prompt_tokens - 1
    assert told[0].usage.mpsplit["kept"] == {"miss": "nothing is kept under this name"}
    assert told[1].usage.mpsplit["kept"]["hit"] >= first.prompt_tokens - 1
    assert told[0].usage.mpsplit["saved"] is told[1].usage.mpsplit["saved"] is True


def test_many_clients_some_of_whom_leave(running, client):
    """Each answer is the one that it is alone; no page stays taken, and the memory stays what it
    was."""
    address = running[1]
    alone = {question: ask(client, question).choices[0].message.content for question in ANSWERS}

    def one(number):
        dice, question = random.Random(number), list(ANSWERS)[number % len(ANSWERS)]
        if dice.random() < 0.3:
            stream = client.chat.completions.create(
                model="vicuna", messages=[{"role": "user", "content": question}], temperature=0, stream=True
            )
            for _ in zip(range(dice.randrange(1, 9)), stream, strict=False):
                pass
            stream.close()
            return True
        return ask(client, question).choices[0].message.content == alone[question]

    def memory():
        return [rank["memory_bytes"] for rank in httpx.get(f"{address}/ranks").json()["ranks"]]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(50)))
        before = memory()
        assert all(pool.map(one, range(50, 200)))
    ask(client, "What is 57+86?")  # after which the ranks tell of themselves
    assert all(after - was < 4 << 20 for was, after in zip(before, memory(), strict=True))
    load = httpx.get(f"{address}/ranks").json()["load"]
    assert load["running"] == load["waiting"] == load["pages_used"] == 0
