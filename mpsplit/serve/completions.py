"""From what was asked to what the loop is asked. In: a body. Out: Requests, one an answer; an ApiError where it cannot be.

The answers of a prompt stand side by side: answer i is number i % n of prompt i // n, and its seed is the request's plus that number.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from mpsplit.runtime.requests import Grammar, Request
from mpsplit.runtime.sampling import Sampling
from mpsplit.runtime.text import Text
from mpsplit.serve.api import ChatBody, CompletionBody, Message, ResponseFormat, Wishes
from mpsplit.serve.errors import ApiError
from mpsplit.serve.service import Service

COMPLETION_TOKENS = 16  # OpenAI's default where a completion says nothing
SEEDS = 2**63


@dataclass(frozen=True)
class Asked:
    """`echo`: of each answer the text that stands before it; `n`: answers a prompt."""

    requests: tuple[Request, ...]
    n: int
    echo: tuple[str, ...]


def of_chat(service: Service, body: ChatBody, owner: str) -> Asked:
    prompt = chat_ids(service, body.messages)
    return _asked(service, body, [prompt], owner, service.context)


def of_completion(service: Service, body: CompletionBody, owner: str) -> Asked:
    given = body.prompt
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    _check_answers(service, len(prompts) * (body.n or 1))
    ids = [text_ids(service, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    asked = _asked(service, body, ids, owner, COMPLETION_TOKENS)
    if not body.echo:
        return asked
    echo = [p if isinstance(p, str) else _text(service).decode(p) for p in prompts for _ in range(asked.n)]
    return replace(asked, echo=tuple(echo))


def chat_ids(service: Service, messages: list[Message]) -> list[int]:
    """Through the chat template."""
    text = _text(service)
    if len(messages) > service.limits.messages:
        raise ApiError(400, f"{len(messages)} messages, at most {service.limits.messages} are taken", param="messages")
    plain = [message.plain for message in messages]
    _check_length(service, sum(len(message["content"]) for message in plain))
    return text.chat(plain)


def text_ids(service: Service, prompt: str) -> list[int]:
    """As it stands."""
    text = _text(service)
    _check_length(service, len(prompt))
    return text.raw(prompt)


def _asked(service: Service, body: Wishes, prompts: list[list[int]], owner: str, longest: int) -> Asked:
    n, context = body.n or 1, service.context
    _check_answers(service, len(prompts) * n)
    for prompt in prompts:
        if len(prompt) >= context:
            raise _too_long(service, f"the prompt has {len(prompt)} tokens")
    sampling, grammar = _sampling(service, body), _grammar(service, body.response_format)
    requests = [
        Request(
            prompt=tuple(prompt),
            max_new_tokens=min(body.longest or longest, context - len(prompt)),
            sampling=replace(sampling, seed=(sampling.seed + number) % SEEDS),
            stops=body.stops,
            ignore_eos=body.ignore_eos,
            logprobs=body.likely,
            grammar=grammar,
            owner=owner,
        )
        for prompt in prompts
        for number in range(n)
    ]
    return Asked(tuple(requests), n, ("",) * len(requests))


def _sampling(service: Service, body: Wishes) -> Sampling:
    """The call's wishes before the server's defaults, field by field: they have the same names."""
    seed = service.seed if body.seed is None else body.seed % SEEDS
    wishes = {field.name: getattr(body, field.name, None) for field in fields(Sampling)}
    wishes["seed"] = secrets.randbelow(SEEDS) if seed is None else seed
    return replace(service.defaults, **{name: wish for name, wish in wishes.items() if wish is not None})


def _grammar(service: Service, wanted: ResponseFormat | None) -> Callable[[], Grammar] | None:
    if wanted is None or wanted.type == "text":
        return None
    _text(service)
    return service.lexicon.grammar(wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"})


def _check_answers(service: Service, count: int) -> None:
    most = service.limits.answers
    if count > most:
        raise ApiError(400, f"{count} answers in one request (prompts times n), at most {most} are given", param="n")


def _check_length(service: Service, characters: int) -> None:
    """Before the tokenizer, which takes its time: so many characters cannot be few enough tokens."""
    if characters > service.longest_prompt:
        raise _too_long(service, f"the prompt has {characters} characters")


def _too_long(service: Service, what: str) -> ApiError:
    message = f"{what}, the context is {service.context} tokens, the answer among them; shorten it"
    return ApiError(400, message, "context_length_exceeded")


def _text(service: Service) -> Text:
    if service.loop.text is None:
        raise ApiError(400, "this model has no tokenizer; ask /v1/completions with token ids", "no_tokenizer")
    return service.loop.text
