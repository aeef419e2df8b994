"""What may be asked, field by field: OpenAI's requests, and what llama.cpp and vLLM add to them.

Fields of OpenAI's that change nothing here are taken and ignored, those that would change the
answer are refused, unknown ones too.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mpsplit.runtime.choose.sampling import BIASES, PRESETS, STRONGEST
from mpsplit.runtime.talk.answer_settings import REFUSE, SLIDE

IGNORED = {"metadata", "modalities", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention",
           "reasoning_effort", "safety_identifier", "service_tier", "store", "verbosity"}  # fmt: skip
NOT_SERVED = {"audio", "function_call", "functions", "suffix", "web_search_options"}


def _encodable(value):
    """Half a surrogate pair is valid JSON, but no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("must be valid Unicode, not nested too deep") from None
    return value


String = Annotated[str, AfterValidator(_encodable)]
Object = Annotated[dict[str, Any], AfterValidator(_encodable)]
Strings = Annotated[list[String], Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Prompts = Annotated[list[TokenIds], Field(min_length=1)]
TokenKey = Annotated[str, Field(pattern="^[0-9]{1,10}$")]  # JSON has no other keys than strings
Bias = Annotated[float, Field(ge=-STRONGEST, le=STRONGEST)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    name: str = Field(max_length=64)
    description: str | None = None
    schema_: Object = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            wrong = "belongs to the type json_schema, and to no other" if self.json_schema else "is missing"
            raise ValueError(f"json_schema {wrong}")
        return self


class Wishes(Body, ABC):
    """What chats and completions have in common. Left out, a field is what the server was started
    with."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[TokenKey, Bias] | None = Field(default=None, max_length=BIASES)
    penalty_window: int | None = Field(default=None, ge=0)
    min_keep: int | None = Field(default=None, ge=1)
    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]  # their names, wherever they stand
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = Field(default=None, max_length=512)
    prefix: str | None = None
    session_id: str | None = None
    when_full: Literal[REFUSE, SLIDE] | None = None  # type: ignore[valid-type]  # constants

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if refused := sorted(name for name in NOT_SERVED & data.keys() if data[name] not in (None, "", "none", {}, [])):
            raise ValueError(f"{', '.join(refused)} cannot be served here; leave it out")
        return {name: value for name, value in data.items() if name not in IGNORED | NOT_SERVED}

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        return self.max_tokens

    @property
    def has_schema(self) -> bool:
        """Whether the answer must be as a JSON schema says."""
        return self.answer_schema is not None

    @property
    def answer_schema(self) -> dict | None:
        """That of response_format."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        return wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}

    @property
    @abstractmethod
    def likely(self) -> int | None:
        """How many likely tokens are told with each of the answer; None for no probabilities."""


class Function(Body):
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: String | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class ToolChoice(Body):
    type: Literal["function"]
    function: FunctionName


class TextPart(Body):
    type: Literal["text"]
    text: String


class CalledFunction(BaseModel):
    model_config = ConfigDict(strict=True)

    name: String
    arguments: String | Object = ""


class ToolCall(BaseModel):
    """What a model called before."""

    model_config = ConfigDict(strict=True)

    id: String | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


def _with_content(schema: dict[str, Any]) -> None:
    """What clients are told of messages: an assistant's alone may have no content, and need not."""
    schema["required"] = ["role", "content"]
    content = schema["properties"]["content"]
    content["anyOf"] = [kind for kind in content["anyOf"] if kind != {"type": "null"}]


class ChatMessage(BaseModel):
    """What an assistant said is taken back as it was given, with fields that mean nothing here."""

    model_config = ConfigDict(strict=True, json_schema_extra=_with_content)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: String | list[TextPart] | None = None
    name: String | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: String | None = None

    @model_validator(mode="after")
    def _said(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing; only an assistant's message may have none")
        return self

    @property
    def plain(self) -> dict[str, Any]:
        """As templates know messages: one text, and `system` for what OpenAI renamed to
        `developer`. Answers begin with a blank, which templates bring too."""
        parts = self.content if isinstance(self.content, list) else []
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        content = content.strip() if self.role == "assistant" else content
        role = "system" if self.role == "developer" else self.role
        extras = self.model_dump(include={"name", "tool_calls", "tool_call_id"}, exclude_none=True)
        return {"role": role, "content": content, **extras}


class ChatBody(Wishes):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if (
            isinstance(self.tool_choice, ToolChoice)
            and not self.on_offer
            or self.tool_choice == "required"
            and not self.tools
        ):
            raise ValueError("tool_choice asks for a tool that is not among tools")
        if self.must_call and self.answer_schema is not None:
            raise ValueError("an answer that must be a call cannot have a response_format")
        return self

    @property
    def on_offer(self) -> list[Tool]:
        """Of the tools those that may be called."""
        if self.tool_choice == "none":
            return []
        named = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else None
        return [tool for tool in self.tools or () if named in (None, tool.function.name)]

    @property
    def has_schema(self) -> bool:
        return self.must_call or super().has_schema

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, ToolChoice)

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def likely(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Wishes):
    prompt: String | Strings | TokenIds | Prompts
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=5)
    best_of: int | None = Field(default=None, ge=1, le=1)

    @model_validator(mode="after")
    def _echoed(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not served: the prompt has no probabilities here")
        return self

    @property
    def likely(self) -> int | None:
        return self.logprobs


class TokenizeBody(Body):
    """Either a text as it stands, or messages, put through the chat template."""

    model: str | None = None
    prompt: String | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[TokenId]
