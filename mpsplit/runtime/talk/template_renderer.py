"""Chat templates, kept at arm's length.

In: a template's text and its variables. Out: the text it writes, or a RunError of one line.

The work is done by a process of its own (template_sandbox.py), which is started with the first job
and again after it was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import IO, Any

from mpsplit.errors import RunError
from mpsplit.leash import leashed

SECONDS = 5.0  # of CPU, for one conversation; a template takes milliseconds
CHARACTERS = 8 << 20
START = "from mpsplit.runtime.talk.template_sandbox import serve; serve()"
WRONG = {
    "refusal": "the chat template refuses the conversation: {}",
    "syntax": "the chat template is no template ({}); choose another with --template",
    "limit": "the chat template was stopped: {}; choose another with --template",
    "failure": "the chat template fails on this conversation: {}",
}


class Renderer:
    """May be used from several threads."""

    def __init__(self, seconds: float = SECONDS, characters: int = CHARACTERS):
        self.limits = {"seconds": seconds, "characters": characters}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(self, template: str, variables: dict) -> str:
        job = json.dumps(self.limits | {"template": template, "variables": variables}) + "\n"
        with self._lock:
            line = self._ask(job)
            reply: dict[str, Any] = json.loads(line) if line.endswith("\n") else {"wrong": ["limit", self._epitaph()]}
        if "text" in reply:
            return reply["text"]
        kind, message = reply["wrong"]
        raise RunError(WRONG[kind].format((message.splitlines() or [""])[0][:300]))

    def _ask(self, job: str) -> str:
        if self._process is None:
            self._process = _start()
            self._end = weakref.finalize(self, _end, self._process)
        jobs, replies = _pipes(self._process)
        with suppress(BrokenPipeError):
            jobs.write(job)
            jobs.flush()
        return replies.readline()

    def _epitaph(self) -> str:
        """Why the process is no more."""
        assert self._process
        code = self._process.wait()
        self._end()
        self._process = None
        if code == -signal.SIGPROF:
            return f"it takes more than {self.limits['seconds']:g} s"
        return f"its process ended with {code}"


def _start() -> subprocess.Popen[str]:
    """With what Python needs to start, and nothing else of the environment: keys are there."""
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME", "TZ") if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return leashed(
        [sys.executable, "-c", START],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="ascii",
    )


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin and process.stdout
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[str]) -> None:
    jobs, replies = _pipes(process)
    with suppress(BrokenPipeError):
        jobs.close()
    replies.close()
    process.wait()
