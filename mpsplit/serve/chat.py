"""`mpsplit chat`: a conversation on the terminal.

In: a token loop on rank 0. Out: answers as they come, until /exit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.runtime.account.account_tables import text
from mpsplit.runtime.kept.kept_texts import CHAT, REMEDY, Damaged, KeptText, folder_of, sessions_of
from mpsplit.runtime.loop.loop_protocol import Request, Stats
from mpsplit.runtime.loop.token_loop import TokenLoop
from mpsplit.runtime.talk.answer_settings import FIRST, Layer, Settings, changed, layer, merged, pair, shown


class Conversation:
    """The messages so far; each answer continues from the KV cache of the one before."""

    def __init__(self, loop: TokenLoop, file: Layer, session: Layer):
        if loop.text is None:
            raise RunError("this package has no tokenizer, so it cannot chat; use `mpsplit run --prompt-ids`")
        self.loop, self.text, self.file, self.session = loop, loop.text, file, session
        self.messages: list[dict[str, str]] = []
        self.tokens: tuple[int, ...] = ()  # of the last answer and all before it
        self.warm = ""  # where they are kept, or those of a prefix
        self.last: Stats | None = None  # of the last answer
        self.ended_by = ""

    @property
    def _package(self) -> Path:
        assert self.loop.package is not None, "conversations are had with a package"
        return self.loop.package

    def settings(self, call: Layer | None = None) -> Settings:
        """Of the file, the session and one call, the later before the earlier."""
        return merged(self.file, self.session, call or {})

    def say(self, question: str, on_text, call: Layer | None = None) -> str:
        """Answers; a question that does not fit the context leaves the conversation as it was."""
        settings = self.settings(call)
        messages = [*self.messages, {"role": "user", "content": question}]
        whole = tuple(self.text.chat(settings.messages(messages), template=settings.template))
        prompt, out = settings.fitted(whole, self.loop.facts.context)
        if out:
            on_text(f"[{out} tokens after the first {FIRST} are left out, for the context is full]\n")
        request = Request(prompt, settings.max_new_tokens, settings.sampling, settings.stop, warm=self.warm)
        answer = self.loop.generate(request, on_text)
        assert answer.text is not None, "there is a tokenizer"
        self.messages = [*messages, {"role": "assistant", "content": answer.text.strip()}]
        self.tokens = (*prompt, *answer.token_ids)
        self.last = answer.stats
        self.ended_by = answer.finish_reason
        return answer.text

    def set(self, layer: Layer) -> None:
        """From now on, in this session; what is refused changes nothing."""
        session = changed(self.session, layer)
        merged(self.file, session)
        self.session = session

    def reset(self) -> None:
        self.messages = []

    def begin_with(self, prefix: KeptText) -> None:
        """A system message that is kept (`mpsplit prefix`)."""
        self.set({"system": prefix.about["text"]})
        self.warm = prefix.folder

    def save(self, name: str) -> str:
        """Where the conversation is kept from now on, with its keys and values."""
        folder = folder_of(sessions_of(CHAT), name)
        if not self.messages:
            raise RunError("there is nothing to save yet; ask something first")
        about = {"messages": self.messages, "session": self.session}
        tokens = self.tokens[: self.loop.facts.context - 1]
        kept = self.loop.generate(Request(tokens, 1, saves=folder, about=about))
        if kept.unsaved:
            raise RunError(kept.unsaved)
        return f"{len(tokens)} tokens are kept in {self._package / folder}"

    def load(self, name: str) -> str:
        kept = KeptText.read(self._package, folder_of(sessions_of(CHAT), name))
        try:
            messages, session = list(kept.about["messages"]), layer(kept.about["session"], name)
        except (KeyError, TypeError):
            raise Damaged(f"{kept.folder} holds no conversation; {REMEDY}") from None
        merged(self.file, session)
        self.messages, self.session, self.warm, self.tokens = messages, session, kept.folder, kept.tokens
        return f"{len(messages)} messages, {len(kept.tokens)} tokens"


def _help(conversation: Conversation, _: str) -> str:
    lines = {name: what for name, (_, what) in COMMANDS.items()} | {EXIT: "leave (also Ctrl-D)"}
    return "\n".join(f"{name:<9}{what}" for name, what in lines.items())


def _stats(conversation: Conversation, _: str) -> str:
    last = conversation.last
    return f"{last}, ended by {conversation.ended_by}\n{text(last.accounts)}" if last else "nothing was answered yet"


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


def _save(conversation: Conversation, name: str) -> str:
    return conversation.save(name)


def _load(conversation: Conversation, name: str) -> str:
    return conversation.load(name)


COMMANDS = {
    "/help": (_help, "this list"),
    "/stats": (_stats, "the last answer: its speed, where the time went, what passed between ranks"),
    "/set": (_set, "all settings; /set temperature=0.7 changes one"),
    "/system": (_system, "begin a new conversation, and first tell the model the text after /system"),
    "/reset": (_reset, "begin a new conversation"),
    "/save": (_save, "keep the conversation under the name after /save, in the package"),
    "/load": (_load, "go on with one that was kept"),
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
