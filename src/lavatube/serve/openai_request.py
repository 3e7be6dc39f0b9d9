"""The body of `POST /v1/chat/completions` → Chat and Generation.

Three kinds of parameters: those that are served, those that only label a request and are taken without effect, and the
rest of OpenAI's, each refused by its name unless its value asks for nothing. What is in none of the three is unknown.

Source: openai-python 3.57, types/chat/completion_create_params.py.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from lavatube.prompt.chat import Chat, Generation, ImageInput, Part, Role, Text, Turn
from lavatube.serve.fields import Problem, StrictModel, invalid, validate

MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 256
SEED_MASK: Final = 2**63 - 1

# Labels, hints for billing and caching: nothing about the answer depends on them.
WITHOUT_EFFECT: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)

# Parameters that are not served: the values that ask for nothing, and what the parameter would be for.
NOT_SERVED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "audio": ((), "this model speaks no audio"),
    "frequency_penalty": ((0,), "penalties are not served"),
    "function_call": (("none",), "tools are not served"),
    "functions": (([],), "tools are not served"),
    "logit_bias": (({},), "token biases are not served"),
    "logprobs": ((False,), "log probabilities are not served"),
    "modalities": ((["text"],), "only text is written"),
    "moderation": ((), "there is no moderation"),
    "n": ((1,), "one answer is given; send the request again for another"),
    "prediction": ((), "predicted outputs are not served"),
    "presence_penalty": ((0,), "penalties are not served"),
    "reasoning_effort": (("none",), "this model does not reason apart"),
    "response_format": (({"type": "text"},), "only plain text is written"),
    "store": ((False,), "completions are not stored"),
    "tool_choice": (("none", "auto"), "tools are not served"),
    "tools": (([],), "tools are not served"),
    "top_logprobs": ((0,), "log probabilities are not served"),
    "verbosity": (("medium",), "this model has no such setting"),
    "web_search_options": ((), "there is no web search"),
}
MESSAGE_NOT_SERVED: Final = ("tool_calls", "tool_call_id", "function_call", "audio", "refusal")


class TextPart(StrictModel):
    type: Literal["text"]
    text: str


class ImageUrl(StrictModel):
    """`detail` has no effect: models of this family read one square of a picture, whatever it says."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] = "auto"


class ImagePart(StrictModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(StrictModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = None  # a label; the chat templates of this family have no place for it

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(StrictModel):
    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] | None = Field(
        None, max_length=MAX_STOPS
    )
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens say the same thing; give one of them.")
        return self

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def chat(self) -> Chat:
        """Raises InvalidFields for a picture outside a user's message, or when the last word is not a user's."""
        turns = tuple(_turn(index, message) for index, message in enumerate(self.messages))
        if turns[-1].role is not Role.USER:
            last = f"messages.{len(turns) - 1}.role"
            raise invalid([Problem(last, "The last message must be the user's.")])
        return Chat(turns)

    def generation(self, max_new_tokens: int) -> Generation:
        """Without a limit of its own, as much as the server gives. Raises InvalidFields for more."""
        max_tokens = self.max_completion_tokens or self.max_tokens or max_new_tokens
        if max_tokens > max_new_tokens:
            param = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise invalid([Problem(param, f"{param} should be less than or equal to {max_new_tokens}.")])
        return Generation(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed & SEED_MASK,
            stop=tuple(self.stop or ()),
        )


def parse_chat_request(body: dict[str, object]) -> ChatRequest:
    """Raises InvalidFields."""
    _refuse_not_served(body)
    wanted = {name: value for name, value in body.items() if name not in WITHOUT_EFFECT and name not in NOT_SERVED}
    messages = wanted.get("messages")
    if isinstance(messages, list):
        wanted["messages"] = [_without_nulls(message) for message in messages]
    return validate(ChatRequest, wanted)


def _refuse_not_served(body: dict[str, object]) -> None:
    problems = [
        Problem(name, f"{name} is not served: {why}.", "Leave it out.")
        for name, (neutral, why) in NOT_SERVED.items()
        if not (body.get(name) is None or _is_one_of(body[name], neutral))
    ]
    if problems:
        raise invalid(problems)


def _is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    """As JSON knows it: true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)


def _without_nulls(message: object) -> object:
    """Clients send back an assistant's message as they got it, with its empty fields."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if not (name in MESSAGE_NOT_SERVED and value in (None, []))}


def _turn(index: int, message: Message) -> Turn:
    role = Role.SYSTEM if message.role == "developer" else Role(message.role)
    parts: list[Part] = []
    for place, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append(Text(part.text))
            continue
        param = f"messages.{index}.content.{place}.image_url"
        if role is not Role.USER:
            raise invalid([Problem(param, "Only a user's message may have pictures.")])
        parts.append(ImageInput(part.image_url.url, param))
    return Turn(role, tuple(parts))
