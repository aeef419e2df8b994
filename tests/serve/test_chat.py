"""The terminal's commands, with a token loop that only listens."""

from types import SimpleNamespace

import pytest

from mpsplit.errors import RunError
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.kept.kept_texts import KeptText
from mpsplit.serve.chat import Conversation, chat


class ListeningLoop:
    """Answers everything with "Yes.", and keeps what it was asked."""

    def __init__(self, text, package=None):
        self.text, self.requests = text, []
        self.facts, self.package = SimpleNamespace(context=512), package

    def generate(self, request, on_text=lambda piece: None):
        self.requests.append(request)
        on_text("Yes.")
        if request.saves:
            KeptText(request.saves, "x", "f32", request.prompt, request.about).save(self.package)
        return SimpleNamespace(text="Yes.", token_ids=(7, 8), stats="quick", finish_reason="eos", unsaved="")


@pytest.fixture
def talk(text, capsys, tmp_path):
    """Types lines; gives what was said, the requests and the conversation."""

    def talk(*lines, file=None, session=None):
        loop = ListeningLoop(text, tmp_path)
        conversation = Conversation(loop, file or {}, session or {})
        chat(conversation, iter(lines))
        return capsys.readouterr().out, loop.requests, conversation

    return talk


def test_set_changes_the_session_and_shows_it(talk):
    shown, requests, _ = talk(
        "a", "/set temperature=0.7", "/set stop=END", "/set", "b", file={"top_k": 3, "temperature": 0.1}
    )
    assert requests[0].sampling == Sampling(0.1, 3) and requests[0].stops == ()
    assert requests[1].sampling == Sampling(0.7, 3) and requests[1].stops == ("END",)
    assert "temperature=0.7\ntop_k=3\n" in shown and "stop='END'" in shown


def test_what_set_refuses_changes_nothing(talk):
    shown, requests, _ = talk(
        "/set temperature=-1", "/set temprature=1", "/set top_k=x", "/set top_k", "/set preset=x", "a"
    )
    for words in (
        "temperature -1.0 is out of range",
        "/set: there is no setting 'temprature'; did you mean temperature?",
        "/set: top_k must be a whole number, not 'x'",
        "/set: 'top_k' must be NAME=VALUE",
        "there is no preset 'x'",
    ):
        assert words in shown
    assert "/reset begins" not in shown and requests[0].sampling == Sampling()


def test_a_preset_and_a_template_in_a_session(talk, text):
    _, requests, _ = talk("/set temperature=2", "/set preset=penalty_sample", "/set template=chatml", "a")
    assert requests[0].sampling.temperature == 0.7 and requests[0].sampling.min_keep == 5
    assert requests[0].prompt == tuple(text.chat([{"role": "user", "content": "a"}], template="chatml"))


def test_system_begins_anew_with_its_text(talk, text):
    shown, requests, conversation = talk("a", "/system Be brief.", "b", "/system", "c")
    user = [{"role": "user", "content": "b"}]
    assert requests[1].prompt == tuple(text.chat([{"role": "system", "content": "Be brief."}, *user]))
    assert requests[2].prompt == tuple(text.chat([{"role": "user", "content": "c"}]))
    assert shown.count("a new conversation") == 2 and len(conversation.messages) == 2


def test_a_call_has_the_last_word(text):
    loop = ListeningLoop(text)
    conversation = Conversation(loop, {"temperature": 0.1, "top_k": 2}, {"temperature": 0.2})
    conversation.say("a", lambda piece: None, {"temperature": 0.3})
    conversation.say("b", lambda piece: None)
    assert [request.sampling for request in loop.requests] == [Sampling(0.3, 2), Sampling(0.2, 2)]
    with pytest.raises(RunError, match="there is no chat template"):
        conversation.say("c", lambda piece: None, {"template": "x"})
    assert len(conversation.messages) == 4


def test_help_lists_every_command_and_exit_leaves(talk):
    shown, requests, _ = talk("/help", "/fly me", "/stats", "/exit now", "a")
    assert all(
        f"\n{name}" in "\n" + shown.replace("> ", "")
        for name in ("/help", "/stats", "/set", "/system", "/reset", "/exit")
    )
    assert (
        "there is no command /fly; /help lists them" in shown and "nothing was answered yet" in shown and not requests
    )


def test_save_and_load_go_on_where_it_was(talk, tmp_path):
    shown, requests, _ = talk("/save a", "/set temperature=0.5", "Hello", "/save a", "/save ../a", "/load b")
    assert "there is nothing to save yet" in shown and "tokens are kept in" in shown
    assert "'../a' is no name" in shown and "has no b among its sessions; there are: a" in shown
    assert requests[1].prompt == (*requests[0].prompt, 7, 8) and requests[1].max_new_tokens == 1
    shown, again, conversation = talk("/load a", "And?")
    assert "2 messages" in shown and conversation.messages[0] == {"role": "user", "content": "Hello"}
    assert again[0].warm == "sessions/chat/a" and again[0].sampling.temperature == 0.5
    assert again[0].prompt[: len(requests[0].prompt)] == requests[0].prompt


def test_a_full_context_is_refused_or_slides_and_says_so(talk):
    long = "word " * 600
    _, requests, _ = talk(long)
    assert len(requests[0].prompt) > 512  # the loop refuses it
    shown, requests, _ = talk(long, session={"when_full": "slide"})
    assert len(requests[0].prompt) == 512 - 64 and "tokens after the first 64 are left out" in shown
    shown, _, _ = talk("/set when_full=x")
    assert "when_full 'x': there are refuse and slide" in shown
