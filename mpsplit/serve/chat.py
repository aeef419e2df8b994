"""`mpsplit chat`: a conversation on the terminal. In: a token loop on rank 0. Out: answers as they come, until /exit."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mpsplit.errors import RunError
from mpsplit.runtime.generate import TokenLoop
from mpsplit.runtime.requests import Request
from mpsplit.runtime.sampling import Sampling

HELP = """\
/help   this list
/stats  speed of the last answer
/reset  begin a new conversation
/exit   leave (also Ctrl-D)"""


class Conversation:
    """The messages so far; each answer continues from the KV cache of the one before."""

    def __init__(self, loop: TokenLoop, sampling: Sampling, max_new_tokens: int):
        if loop.text is None:
            raise RunError("this package has no tokenizer, so it cannot chat; use `mpsplit run --prompt-ids`")
        self.loop, self.sampling, self.max_new_tokens = loop, sampling, max_new_tokens
        self.messages: list[dict[str, str]] = []
        self.stats = "nothing was answered yet"

    def say(self, question: str, on_text) -> str:
        """Answers; a question that does not fit the context leaves the conversation as it was."""
        asked = [*self.messages, {"role": "user", "content": question}]
        request = Request(tuple(self.loop.text.chat(asked)), self.max_new_tokens, self.sampling)
        answer = self.loop.generate(request, on_text)
        self.messages = [*asked, {"role": "assistant", "content": answer.text.strip()}]
        self.stats = f"{answer.stats}, ended by {answer.finish_reason}"
        return answer.text

    def reset(self) -> None:
        self.messages = []


def chat(conversation: Conversation, lines: Iterator[str]) -> None:
    """Answers line by line; commands begin with a slash."""
    commands = {
        "/help": lambda: HELP,
        "/stats": lambda: conversation.stats,
        "/reset": lambda: conversation.reset() or "a new conversation",
    }
    show("Type a question, or /help.\n")
    show("> ")
    for line in lines:
        question = line.strip()
        if question == "/exit":
            return
        if question in commands:
            show(commands[question]() + "\n")
        elif question.startswith("/"):
            show(f"there is no command {question}; /help lists them\n")
        elif question:
            try:
                conversation.say(question, show)
                show("\n")
            except RunError as wrong:
                show(f"{wrong}; /reset begins a new conversation\n")
        show("> ")
    show("\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
