"""A conversation of over 1,000 tokens with a real model, SmolLM2 over two ranks, by OpenAI's
client: what is kept of it, also over a restart, spares work and changes no answer."""

from tests.missing import needs, smollm2
from tests.models import EXAMPLE
from tests.running import mpsplit
from tests.serve.served import client_of
from tests.serve.started_ranks import serving_ranks

TEXTS = (EXAMPLE.parent / "smollm2" / "english.txt").read_text(encoding="utf-8").splitlines()
SYSTEM = "You read texts.\n\n" + "\n\n".join(TEXTS[:4])
ASKED = ["What is this about?\n\n" + "\n\n".join(TEXTS[i : i + 2]) for i in (4, 6, 8)]
BOTH = {"prefix": "texts", "session_id": "long"}


def ask(served, messages, **more):
    """The answer; tokens of the prompt, how many of them were not computed; the rest of usage."""
    reply = (
        client_of(served.address)
        .with_options(timeout=100)
        .chat.completions.create(model="vicuna", messages=messages, temperature=0, max_tokens=16, extra_body=more)
    )
    usage = reply.usage
    own = usage.model_dump()["mpsplit"]
    return reply.choices[0].message.content, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, own


@needs("SmolLM2")
@needs("the engine")
@needs("mpi")
def test_a_long_conversation_goes_on_after_a_restart(tmp_path):
    package = tmp_path / "package"
    mpsplit("partition", smollm2, "--ranks", 2, "--out", package)
    mpsplit("convert", package)
    (tmp_path / "system.txt").write_text(SYSTEM, encoding="utf-8")
    mpsplit("prefix", "add", package, "--name", "texts", "--text-file", tmp_path / "system.txt")
    talk, answers, known = [], [], 0
    with serving_ranks(package, tmp_path / "store") as start:
        served = start("mpirun")
        for asked in ASKED:
            if asked == ASKED[-1]:
                served.started[0].terminate()
                served.started[0].wait(30)
                served = start("mpirun")
            talk.append({"role": "user", "content": asked})
            answer, length, cached, own = ask(served, talk, **BOTH)
            # what was said before, but the last token; of the first question the prefix
            assert cached == own["kept"]["hit"] and own["saved"] is True
            assert cached == known if known else 500 < cached < length
            known = length + 15
            answers.append(answer)
            talk.append({"role": "assistant", "content": answer})
        assert length > 1000
    # in a server that has seen none of it
    with serving_ranks(package, tmp_path / "store") as start:
        served = start("mpirun")
        whole = [{"role": "system", "content": SYSTEM}, *talk]
        again = [ask(served, whole[: 2 * turns + 2]) for turns in (2, 0, 1)]
        assert again[0][1:3] == (length, 0)
        assert [answer for answer, *_ in again] == [answers[turn] for turn in (2, 0, 1)]
