"""The body of `POST /v1/chat/completions` → Chat and Generation.

Three kinds of parameters: those that are served, those that only label a request and are taken without effect, and the
rest of OpenAI's, each refused by its name unless its value asks for nothing. What is in none of the three is unknown.

Source: openai-python 3.57, types/chat/completion_create_params.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from lavatube.geometry import Detail
from lavatube.prompt.chat import Chat, Generation, ImageInput, Part, Role, Structure, Text, Turn
from lavatube.serve.fields import Problem, StrictModel, at_most, invalid, misfit, validate
from lavatube.serve.not_served import LABELS, NotServed, not_served, refuse_not_served
from lavatube.serve.openai_sampling import SamplingFields, too_large
from lavatube.serve.openai_structure import JsonObjectFormat, JsonSchemaFormat, StructuredOutputs, TextFormat

MAX_MESSAGES: Final = 1024
MAX_PARTS: Final = 256
MAX_BIASES: Final = 1024

# Of a response the metadata are told again; a completion is not kept.
WITHOUT_EFFECT: Final = LABELS | {"metadata"}

# Parameters that are not served: the values that ask for nothing, and what the parameter would be for.
NOT_SERVED: Final[NotServed] = {
    "audio": ((), "this model speaks no audio"),
    "function_call": (("none",), "there are no tools"),
    "functions": (([],), "there are no tools"),
    "modalities": ((["text"],), "only text is written"),
    "moderation": ((), "there is no moderation"),
    "prediction": ((), "predicted outputs are not served"),
    "reasoning_effort": (("none",), "this model does not reason apart"),
    "store": ((False,), "completions are not stored"),
    "tool_choice": (("none", "auto"), "there are no tools"),
    "tools": (([],), "there are no tools"),
    "verbosity": (("medium",), "this model has no such setting"),
    "web_search_options": ((), "there is no web search"),
}
# The same of a message: clients send back an assistant's as they got it, with its empty fields.
MESSAGE_NOT_SERVED: Final[NotServed] = {
    "annotations": (([],), "answers have no annotations"),
    "audio": ((), "this model speaks no audio"),
    "function_call": ((), "tools are not served"),
    "refusal": ((), "there are no refusals"),
    "tool_call_id": ((), "tools are not served"),
    "tool_calls": (([],), "tools are not served"),
}
# `parsed` is what a client itself has read in the content.
MESSAGE_WITHOUT_EFFECT: Final = frozenset((*MESSAGE_NOT_SERVED, "parsed"))


class TextPart(StrictModel):
    type: Literal["text"]
    text: str

    def read(self, param: str) -> Part:
        return Text(self.text)


class ImageUrl(StrictModel):
    """`detail` low is the whole picture in one tile; all others are the tiles that the checkpoint was trained with."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] = "auto"


class ImagePart(StrictModel):
    type: Literal["image_url"]
    image_url: ImageUrl

    def read(self, param: str) -> Part:
        detail: Detail = "low" if self.image_url.detail == "low" else "high"
        return ImageInput(self.image_url.url, f"{param}.image_url", detail)


class Message(StrictModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(fail_fast=True), at_most(MAX_PARTS)
    ]
    name: str | None = None  # a label; the chat templates of this family have no place for it

    @model_validator(mode="before")
    @classmethod
    def _is_served(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if value.get("role") in ("tool", "function"):
            raise misfit("role", "Messages of tools are not served.", "Leave them out.")
        for problem in not_served(value, MESSAGE_NOT_SERVED):
            raise misfit(problem.param, problem.message, problem.remedy)
        return {name: field for name, field in value.items() if name not in MESSAGE_WITHOUT_EFFECT}

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: object) -> object:
        if not isinstance(value, str | list):
            raise misfit("", "content should be a text or a list of parts.", "Send one of the two.")
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(SamplingFields):
    model: str
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True), at_most(MAX_MESSAGES)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=8)
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None,
        at_most(MAX_BIASES),
    ] = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = Field(None, discriminator="type")
    # Not OpenAI's: as vLLM and others name them.
    min_tokens: int | None = Field(None, ge=0)
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise misfit("stream_options", "stream_options needs stream to be true.", "Set stream, or leave it out.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise misfit("max_tokens", "max_tokens and max_completion_tokens say the same thing.", "Give one of them.")
        if self.top_logprobs is not None and not self.logprobs:
            raise misfit("top_logprobs", "top_logprobs needs logprobs to be true.", "Set logprobs, or leave it out.")
        if self.structured_outputs is not None and self.response_format is not None:
            raise misfit(
                "structured_outputs",
                "response_format and structured_outputs both say what form the answer has.",
                "Give one of them.",
            )
        if self.min_tokens and self.structure is not None:
            raise misfit("min_tokens", "A structure says itself when an answer may end.", "Leave out min_tokens.")
        return self

    @property
    def structure(self) -> Structure | None:
        """The form that the answer must have."""
        if self.structured_outputs is not None:
            return self.structured_outputs.structure
        return None if self.response_format is None else self.response_format.structure

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def chat(self) -> Chat:
        """Raises InvalidFields for a picture outside a user's message, or when the last word is not a user's."""
        turns = tuple(read_turn(index, message.role, message.content) for index, message in enumerate(self.messages))
        if turns[-1].role is not Role.USER:
            last = f"messages.{len(turns) - 1}.role"
            raise invalid([Problem(last, "The last message must be the user's.", "Add one.")])
        return Chat(turns)

    def generation(self, max_new_tokens: int) -> Generation:
        """Without a limit of its own, as much as the server gives. Raises InvalidFields for more."""
        max_tokens = self.max_completion_tokens or self.max_tokens or max_new_tokens
        if max_tokens > max_new_tokens:
            param = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise invalid([too_large(param, max_new_tokens)])
        min_tokens = self.min_tokens or 0
        if min_tokens > max_tokens:
            raise invalid([too_large("min_tokens", max_tokens)])
        return replace(
            self.sampling,
            max_tokens=max_tokens,
            logit_bias=tuple((int(token_id), bias) for token_id, bias in (self.logit_bias or {}).items()),
            min_tokens=min_tokens,
            top_logprobs=self.top_logprobs or 0 if self.logprobs else None,
            num_choices=self.n or 1,
            structure=self.structure,
        )


def parse_chat_request(body: dict[str, object]) -> ChatRequest:
    """Raises InvalidFields."""
    refuse_not_served(body, NOT_SERVED)
    wanted = {name: value for name, value in body.items() if name not in WITHOUT_EFFECT and name not in NOT_SERVED}
    return validate(ChatRequest, wanted)


class ContentPart(Protocol):
    """A part of a message, of whatever form."""

    def read(self, param: str) -> Part: ...


def read_turn(index: int, role_name: str, content: Sequence[ContentPart]) -> Turn:
    """One message of a body. Raises InvalidFields for a picture that is not in a user's."""
    role = Role.SYSTEM if role_name == "developer" else Role(role_name)
    parts = tuple(part.read(f"messages.{index}.content.{place}") for place, part in enumerate(content))
    for part in parts:
        if isinstance(part, ImageInput) and role is not Role.USER:
            raise invalid([Problem(part.param, "Only a user's message may have pictures.", "Put it into one.")])
    return Turn(role, parts)
