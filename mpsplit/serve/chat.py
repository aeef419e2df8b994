"""`mpsplit chat`: a conversation on the terminal. In: a token loop on rank 0. Out: answers as they come, until /exit."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mpsplit.errors import RunError
from mpsplit.runtime.generate import TokenLoop
from mpsplit.runtime.requests import Request
from mpsplit.runtime.settings import Layer, Settings, changed, merged, pair, shown


class Conversation:
    """The messages so far; each answer continues from the KV cache of the one before."""

    def __init__(self, loop: TokenLoop, file: Layer, session: Layer):
        if loop.text is None:
            raise RunError("this package has no tokenizer, so it cannot chat; use `mpsplit run --prompt-ids`")
        self.loop, self.file, self.session = loop, file, session
        self.messages: list[dict[str, str]] = []
        self.stats = "nothing was answered yet"

    def settings(self, call: Layer | None = None) -> Settings:
        """Of the file, the session and one call, the later before the earlier."""
        return merged(self.file, self.session, call or {})

    def say(self, question: str, on_text, call: Layer | None = None) -> str:
        """Answers; a question that does not fit the context leaves the conversation as it was."""
        settings = self.settings(call)
        asked = [*self.messages, {"role": "user", "content": question}]
        prompt = tuple(self.loop.text.chat(settings.messages(asked), template=settings.template))
        request = Request(prompt, settings.max_new_tokens, settings.sampling, settings.stop)
        answer = self.loop.generate(request, on_text)
        self.messages = [*asked, {"role": "assistant", "content": answer.text.strip()}]
        self.stats = f"{answer.stats}, ended by {answer.finish_reason}"
        return answer.text

    def set(self, layer: Layer) -> None:
        """From now on, in this session; what is refused changes nothing."""
        session = changed(self.session, layer)
        merged(self.file, session)
        self.session = session

    def reset(self) -> None:
        self.messages = []


def _help(conversation: Conversation, _: str) -> str:
    told = {name: what for name, (_, what) in COMMANDS.items()} | {EXIT: "leave (also Ctrl-D)"}
    return "\n".join(f"{name:<9}{what}" for name, what in told.items())


def _stats(conversation: Conversation, _: str) -> str:
    return conversation.stats


def _set(conversation: Conversation, text: str) -> str:
    if text:
        conversation.set(pair(text, "/set"))
        return text
    return shown(conversation.settings())


def _system(conversation: Conversation, text: str) -> str:
    conversation.set({"system": text})
    return _reset(conversation, "")


def _reset(conversation: Conversation, _: str) -> str:
    conversation.reset()
    return "a new conversation"


COMMANDS = {
    "/help": (_help, "this list"),
    "/stats": (_stats, "speed of the last answer"),
    "/set": (_set, "all settings; /set temperature=0.7 changes one"),
    "/system": (_system, "begin a new conversation, and first tell the model the text after /system"),
    "/reset": (_reset, "begin a new conversation"),
}
EXIT = "/exit"


def chat(conversation: Conversation, lines: Iterator[str]) -> None:
    """Answers line by line; commands begin with a slash."""
    show("Type a question, or /help.\n")
    show("> ")
    for line in lines:
        command, _, text = line.strip().partition(" ")
        if command == EXIT:
            return
        if command.startswith("/"):
            show(_obey(conversation, command, text.strip()) + "\n")
        elif command:
            _answer(conversation, line.strip())
        show("> ")
    show("\n")


def _obey(conversation: Conversation, command: str, text: str) -> str:
    if command not in COMMANDS:
        return f"there is no command {command}; /help lists them"
    try:
        return COMMANDS[command][0](conversation, text)
    except RunError as wrong:
        return str(wrong)


def _answer(conversation: Conversation, question: str) -> None:
    try:
        conversation.say(question, show)
        show("\n")
    except RunError as wrong:
        show(f"{wrong}; /reset begins a new conversation\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
