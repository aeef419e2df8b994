"""What a body means to the loop.

In: a body. Out: Requests, one an answer; an ApiError where it cannot be.

The answers of a prompt stand side by side: answer i is number i % n of prompt i // n, and its seed
is the request's plus that number.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpsplit.runtime.choose.lexicon import Grammar
from mpsplit.runtime.choose.sampling import biases_of
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.talk.answer_settings import REFUSE, SETTINGS, SLIDE, Settings, merged
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.openai.request_bodies import ChatBody, ChatMessage, CompletionBody, Tool, Wishes
from mpsplit.serve.service.caller import Caller
from mpsplit.serve.service.service import Service

COMPLETION_TOKENS = 16  # OpenAI's default where a completion says nothing
SEEDS = 2**63


@dataclass(frozen=True)
class Meaning:
    """`echo`: of each answer the text that stands before it; `n`: answers a prompt; `left_out`:
    tokens of the prompts that slid out of the context; `tools`: names of those that may be called.
    """

    requests: tuple[Request, ...]
    n: int
    echo: tuple[str, ...]
    left_out: int
    tools: tuple[str, ...] = ()


def of_chat(service: Service, body: ChatBody, caller: Caller) -> Meaning:
    settings = _settings(service, body, service.context)
    if body.prefix:
        if body.messages[0].role == "system":
            raise ApiError(400, "a prefix is the system message; leave one of them out", param="prefix")
        settings = replace(settings, system=service.client_texts.prefix(body.prefix, raw=False))
    prompt = chat_ids(service, body.messages, settings, body.on_offer)
    grammar = _grammar(service, call_schema(body.on_offer) if body.must_call else body.answer_schema)
    meaning = _meaning(service, body, settings, [prompt], grammar, caller)
    return replace(meaning, tools=tuple(tool.function.name for tool in body.on_offer))


def of_completion(service: Service, body: CompletionBody, caller: Caller) -> Meaning:
    prompt = body.prompt
    before = service.client_texts.prefix(body.prefix, raw=True) if body.prefix else ""
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    _check_answers(service, len(prompts) * (body.n or 1))
    settings = _settings(service, body, COMPLETION_TOKENS)
    ids = [text_ids(service, before + prompt, settings) if isinstance(prompt, str) else prompt for prompt in prompts]
    grammar = _grammar(service, body.answer_schema)
    meaning = _meaning(service, body, settings, ids, grammar, caller)
    if not body.echo:
        return meaning
    echo = [p if isinstance(p, str) else service.text.decode(p) for p in prompts for _ in range(meaning.n)]
    return replace(meaning, echo=tuple(echo))


def chat_ids(
    service: Service, messages: list[ChatMessage], settings: Settings | None = None, tools: Sequence[Tool] = ()
) -> list[int]:
    """Through the chat template."""
    text, settings = service.text, settings or merged(*service.layers)
    if len(messages) > service.limits.messages:
        raise ApiError(400, f"{len(messages)} messages, at most {service.limits.messages} are taken", param="messages")
    plain = [message.plain for message in messages]
    _check_length(service, sum(len(message["content"]) for message in plain), settings)
    talk = plain if plain[0]["role"] == "system" else settings.messages(plain)
    offered = [tool.model_dump(exclude_none=True) for tool in tools]
    return text.chat(talk, offered or None, settings.template)


def text_ids(service: Service, prompt: str, settings: Settings | None = None) -> list[int]:
    """As it stands."""
    text = service.text
    _check_length(service, len(prompt), settings or merged(*service.layers))
    return text.raw(prompt)


def call_schema(tools: Sequence[Tool]) -> dict:
    """Of a call of one of them, as tool_calls.py reads it. The `$id` makes each tool's schema a
    document of its own, so that its pointers (`#/$defs/...`) begin at its own root."""
    whole = dict(type="object", required=["name", "arguments"], additionalProperties=False)
    return {
        "anyOf": [
            whole | {"properties": {"name": {"const": tool.function.name}, "arguments": _document(i, tool)}}
            for i, tool in enumerate(tools)
        ]
    }


def _document(number: int, tool: Tool) -> dict:
    """Without `$schema`: one of an older draft knows no `$id`."""
    schema = tool.function.parameters or {"type": "object"}
    return {name: value for name, value in schema.items() if name != "$schema"} | {"$id": f"tool:{number}"}


def _meaning(
    service: Service,
    body: Wishes,
    settings: Settings,
    prompts: list[list[int]],
    grammar: Callable[[], Grammar] | None,
    caller: Caller,
) -> Meaning:
    n, context = body.n or 1, service.context
    _check_answers(service, len(prompts) * n)
    fitted = [_fitted(service, body, settings, tuple(prompt)) for prompt in prompts]
    sampling, client_texts = settings.sampling, service.client_texts
    saves = client_texts.session(body.session_id, caller.key) if body.session_id is not None else ""
    warm = client_texts.warm(body.prefix, saves)
    requests = [
        Request(
            prompt=prompt,
            max_new_tokens=min(settings.max_new_tokens, context - len(prompt)),
            sampling=replace(sampling, seed=(sampling.seed + number) % SEEDS),
            stops=settings.stop,
            ignore_eos=body.ignore_eos,
            logprobs=body.likely,
            grammar=grammar,
            owner=caller.owner,
            salt=service.salt(caller.owner),
            warm=warm,
            saves="" if i or number else saves,
        )
        for i, (prompt, _) in enumerate(fitted)
        for number in range(n)
    ]
    return Meaning(tuple(requests), n, ("",) * len(requests), sum(out for _, out in fitted))


def _fitted(service: Service, body: Wishes, settings: Settings, prompt: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The prompt with room behind it, and how many of its tokens slid out: room for as long an
    answer as somebody asked for, or else for a short one."""
    named = body.longest or any("max_new_tokens" in layer for layer in service.layers)
    room = settings.max_new_tokens if named else min(settings.max_new_tokens, Settings.max_new_tokens)
    prompt, left_out = replace(settings, max_new_tokens=room).fitted(prompt, service.context)
    if len(prompt) >= service.context:
        raise _too_long(service, f"the prompt has {len(prompt)} tokens")
    return prompt, left_out


def _settings(service: Service, body: Wishes, longest: int) -> Settings:
    """The call's wishes before the server's, field by field, for they have the same names."""
    call = {name: wish for name in SETTINGS if (wish := getattr(body, name, None)) is not None}
    call |= {"logit_bias": biases_of(body.logit_bias)} if body.logit_bias is not None else {}
    call |= {"stop": body.stops} if body.stops else {}
    call |= {"seed": body.seed % SEEDS} if body.seed is not None else {}
    call |= {"max_new_tokens": body.longest} if body.longest else {}
    return merged({"max_new_tokens": longest, "seed": secrets.randbelow(SEEDS)}, *service.layers, call)


def _grammar(service: Service, schema: dict | None) -> Callable[[], Grammar] | None:
    return None if schema is None else service.lexicon.grammar(schema)


def _check_answers(service: Service, count: int) -> None:
    most = service.limits.answers
    if count > most:
        raise ApiError(400, f"{count} answers in one request (prompts times n), at most {most} are given", param="n")


def _check_length(service: Service, characters: int, settings: Settings) -> None:
    """Before the tokenizer, which takes its time: so many characters cannot be few enough
    tokens."""
    if settings.when_full == REFUSE and characters > service.longest_prompt:
        raise _too_long(service, f"the prompt has {characters} characters")


def _too_long(service: Service, what: str) -> ApiError:
    message = (
        f"{what}, the context is {service.context} tokens, the answer among them; shorten it, "
        f'or send "when_full": "{SLIDE}", which keeps its first tokens and its last'
    )
    return ApiError(400, message, "context_length_exceeded")
