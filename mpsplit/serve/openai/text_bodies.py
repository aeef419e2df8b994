"""What may be asked of an encoder, as OpenAI has it, and of a cross-encoder, as Jina and Cohere do.

In: a JSON body. Out: its fields, each of the right kind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mpsplit.serve.openai.request_bodies import Body, Prompts, String, Strings, TokenIds


class EmbeddingsBody(Body):
    """Token ids are taken as they stand, with those that begin and end a text."""

    input: String | Strings | TokenIds | Prompts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = Field(default=None, max_length=512)

    @model_validator(mode="after")
    def _said(self) -> EmbeddingsBody:
        if empty := [number for number, text in enumerate(self.texts) if not text]:
            raise ValueError(f"input {empty[0]} is empty; send a text")
        return self

    @property
    def texts(self) -> list[str]:
        """Where texts were sent, and no ids."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [text for text in given if isinstance(text, str)]

    @property
    def ids(self) -> list[list[int]]:
        """Where ids were sent."""
        given = [] if isinstance(self.input, str) else self.input
        several = [ids for ids in given if isinstance(ids, list)]
        return several or [ids for ids in [[token for token in given if isinstance(token, int)]] if ids]


class Document(Body):
    text: String


class RerankBody(Body):
    query: String
    documents: Annotated[list[String | Document], Field(min_length=1)]
    model: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    user: str | None = Field(default=None, max_length=512)

    @property
    def texts(self) -> list[str]:
        return [document if isinstance(document, str) else document.text for document in self.documents]


class TextTokenizeBody(Body):
    prompt: String
    model: str | None = None
