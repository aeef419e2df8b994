"""The process in which chat templates run.

In: jobs, one JSON line each, on stdin. Out: {"text": ...} or {"wrong": ...}, a line each.

A template is a program by whoever made the model, so it has a process of its own: bounded in
memory, in CPU time a job and in what it writes, without our environment, and killed by the kernel,
not by good will, when it goes on and on. What it may use is what transformers gives it: an
immutable sandbox of Jinja2 with break and continue, tojson, raise_exception, strftime_now.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 512 << 20  # bytes of address space, Python's own among them


class Refusal(TemplateError):
    """The template itself refuses the conversation."""


class GenerationTag(Extension):
    """{% generation %} marks the assistant's words for training; here it marks nothing."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json  # Jinja's own escapes for HTML
        self.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}

    def unsafe_undefined(self, obj, attribute):
        raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}, which is none of its business")

    @lru_cache(maxsize=4)  # noqa: B019 there is one sandbox a process
    def compiled(self, source: str):
        return self.from_string(source)


def answer(sandbox: Sandbox, job: dict) -> dict:
    """The text of one job, or what is wrong, as (kind of error, message)."""
    size = 0
    pieces = []
    try:
        for piece in sandbox.compiled(job["template"]).generate(job["variables"]):
            pieces.append(piece)
            size += len(piece)
            if size > job["characters"]:
                return {"wrong": ["limit", f"it writes more than {job['characters']} characters"]}
        return {"text": "".join(pieces)}
    except Refusal as wrong:
        return {"wrong": ["refusal", str(wrong)]}
    except TemplateSyntaxError as wrong:
        return {"wrong": ["syntax", str(wrong)]}
    except MemoryError:
        return {"wrong": ["limit", f"it takes more than {MEMORY >> 20} MB"]}
    except Exception as wrong:  # a template can raise anything that Python can
        return {"wrong": ["failure", f"{wrong}" or type(wrong).__name__]}


def serve() -> None:
    """Until stdin ends. SIGPROF, when a job's CPU time is over, ends the process even in the middle
    of one long operation."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, meant for who started us
    sandbox = Sandbox()
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])
        reply = json.dumps(answer(sandbox, job))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


def _refuse(message: str):
    raise Refusal(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
