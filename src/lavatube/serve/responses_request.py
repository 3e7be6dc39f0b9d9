"""The body of `POST /v1/responses` → what is asked, checked.

The same three kinds of parameters as in `openai_request.py`: served, without effect, not served; others are unknown.

Source: openai-python 3.57, types/responses/response_create_params.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from lavatube.prompt.chat import Generation, Role, Structure, Text, Turn
from lavatube.serve.fields import StrictModel, at_most, invalid, misfit, validate
from lavatube.serve.not_served import LABELS, NotServed, refuse_not_served
from lavatube.serve.openai_request import StreamOptions
from lavatube.serve.openai_sampling import SamplingFields, too_large
from lavatube.serve.openai_structure import JsonObjectFormat, NamedSchema, TextFormat
from lavatube.serve.responses_input import (
    MAX_ITEMS,
    InputItem,
    Item,
    Message,
    Reference,
    as_items,
    kept_items,
    turns_of,
)

LOGPROBS: Final = "message.output_text.logprobs"
IMAGE_URLS: Final = "message.input_image.image_url"
FORMAT: Final = "text.format"
MAX_METADATA: Final = 16

WITHOUT_EFFECT: Final = LABELS

# Parameters that are not served: the values that ask for nothing, and what the parameter would be for.
NOT_SERVED: Final[NotServed] = {
    "access_programs": ((), "there is one programme for all"),
    "background_options": (({"completion_window": "soonest"},), "background work is begun at once"),
    "context_management": (([],), "a conversation is not shortened"),
    "conversation": ((), "conversations have no objects of their own; previous_response_id goes on with one"),
    "image": ((), "pictures are not compressed"),
    "max_tool_calls": ((), "there are no tools"),
    "moderation": ((), "there is no moderation"),
    "prompt": ((), "prompts are not stored here"),
    "reasoning": (({}, {"effort": "none"}), "this model does not reason apart"),
    "tool_choice": (("none", "auto"), "there are no tools"),
    "tools": (([],), "there are no tools"),
    "truncation": (("disabled",), "a conversation that is too long is refused, not cut"),
}

Includable = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    # Of items that never occur here; clients ask for them whatever they send.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
ResponseId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class JsonSchemaFormat(NamedSchema):
    """As `response_format` of a chat completion, one level flatter."""

    type: Literal["json_schema"]


class TextConfig(StrictModel):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = Field(None, discriminator="type")
    verbosity: None = None

    @field_validator("verbosity", mode="before")
    @classmethod
    def _no_verbosity(cls, value: object) -> object:
        """The middle is what a model without such a setting has."""
        if value not in (None, "medium"):
            raise misfit("", "verbosity is not served: this model has no such setting.", "Leave it out.")
        return None

    @property
    def structure(self) -> Structure | None:
        match self.format:
            case JsonSchemaFormat(schema_=schema):
                return Structure("json_schema", json.dumps(schema), FORMAT)
            case JsonObjectFormat() as json_object:
                return replace(json_object.structure, param=FORMAT)
            case _:
                return None


class ResponseRequest(SamplingFields):
    model: str
    input: Annotated[list[InputItem], Field(min_length=1, fail_fast=True), at_most(MAX_ITEMS)]
    instructions: str | None = None
    previous_response_id: ResponseId | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextConfig | None = None
    include: Annotated[list[Includable] | None, at_most(32)] = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        at_most(MAX_METADATA),
    ] = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _as_items(cls, value: object) -> object:
        return as_items(value)

    @model_validator(mode="after")
    def _fits_together(self) -> ResponseRequest:
        if self.stream_options is not None and not self.stream:
            raise misfit("stream_options", "stream_options needs stream to be true.", "Set stream, or leave it out.")
        if self.background and self.store is False:
            raise misfit("background", "What runs in the background has to be stored.", "Leave out store.")
        if self.input[-1].role != "user":
            last = f"input.{len(self.input) - 1}.role"
            raise misfit(last, "The last message must be the user's.", "Add one.")
        return self

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def has_logprobs(self) -> bool:
        return self.top_logprobs is not None or LOGPROBS in (self.include or ())

    @property
    def references(self) -> dict[str, Reference]:
        """To answers that were given before, by their place."""
        return {f"input.{index}": item for index, item in enumerate(self.input) if isinstance(item, Reference)}

    @property
    def opening(self) -> tuple[Turn, ...]:
        """What the model is told before the conversation; never taken over from an earlier response."""
        return (Turn(Role.SYSTEM, (Text(self.instructions),)),) if self.instructions else ()

    def generation(self, max_new_tokens: int) -> Generation:
        """Without a limit of its own, as much as the server gives. Raises InvalidFields for more."""
        max_tokens = self.max_output_tokens or max_new_tokens
        if max_tokens > max_new_tokens:
            raise invalid([too_large("max_output_tokens", max_new_tokens)])
        return replace(
            self.sampling,
            max_tokens=max_tokens,
            top_logprobs=self.top_logprobs or 0 if self.has_logprobs else None,
            structure=None if self.text is None else self.text.structure,
        )

    @property
    def echo(self) -> dict[str, Any]:
        """What a response says of the request that it answers."""
        text = self.text.format if self.text is not None else None
        shown = {"type": "text"} if text is None else text.model_dump(by_alias=True, exclude_none=True)
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "previous_response_id": self.previous_response_id,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_logprobs": self.top_logprobs or 0,
            "text": {"format": shown},
            "background": bool(self.background),
            "store": self.is_stored,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, its part of the conversation, and what will be kept of it."""

    request: ResponseRequest
    turns: tuple[Turn, ...]
    items: list[Item]
    pictures: dict[str, str]

    @classmethod
    def of(cls, request: ResponseRequest) -> Asked:
        """Without the answers that it refers to. Raises InvalidFields for a picture outside a user's message."""
        messages = {index: item for index, item in enumerate(request.input) if isinstance(item, Message)}
        pictures: dict[str, str] = {}
        items = kept_items(messages.values(), pictures) if request.is_stored else []
        return cls(request, turns_of(messages), items, pictures)

    def knowing(self, answers: Mapping[str, str]) -> Asked:
        """With the answers that it refers to, by their place. Takes as long as `of`."""
        told = [
            item.told(answers[f"input.{index}"]) if isinstance(item, Reference) else item
            for index, item in enumerate(self.request.input)
        ]
        return Asked.of(self.request.model_copy(update={"input": told}))


def parse_response_request(body: dict[str, object]) -> Asked:
    """Raises InvalidFields."""
    refuse_not_served(_without_empty(body), NOT_SERVED)
    wanted = {name: value for name, value in body.items() if name not in WITHOUT_EFFECT and name not in NOT_SERVED}
    return Asked.of(validate(ResponseRequest, wanted))


def _without_empty(body: dict[str, object]) -> dict[str, object]:
    """Clients send their `reasoning` with all of its fields null."""
    reasoning = body.get("reasoning")
    if not isinstance(reasoning, dict):
        return body
    return body | {"reasoning": {name: value for name, value in reasoning.items() if value is not None}}
