"""A conversation as every protocol hands it on: turns of text and images, and how to answer. Knows no template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from lavatube.errors import InvalidInput
from lavatube.geometry import Detail

_RANGES: Final = "top_p is between 0 and 1; all others are numbers from 0 on."


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One picture, not yet fetched or decoded.

    `source` is the encoded file itself, or a `data:`, `http:` or `https:` URL. `param` is the request's field that it
    came from, so that an error can name it. `detail` low: the picture as a whole, without its tiles.
    """

    source: bytes | str
    param: str = "image"
    detail: Detail = "high"


Part = Text | ImageInput


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Chat:
    """The turns so far; the answer to come is the assistant's next."""

    turns: tuple[Turn, ...]

    @property
    def images(self) -> tuple[ImageInput, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, ImageInput))


@dataclass(frozen=True, slots=True)
class Structure:
    """The form that an answer must have: a JSON schema, a regular expression, or one of a JSON list of texts.

    `param` is the request's field that it came from, so that an error can name it.
    """

    kind: Literal["json_schema", "regex", "choice"]
    text: str
    param: str


@dataclass(frozen=True, slots=True)
class Generation:
    """How to answer. `max_tokens` None means: as much as the context holds; `seed` None means: a random one.

    The rest is explained where it is defined, at `engine.wire.Sampling`.
    """

    max_tokens: int | None = None
    temperature: float = 0.2
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    top_logprobs: int | None = None
    num_choices: int = 1
    structure: Structure | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidInput."""
        legal = {
            "max_tokens": self.max_tokens is None or self.max_tokens >= 0,
            "temperature": 0 <= self.temperature < math.inf,
            "top_p": 0 <= self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "seed": self.seed is None or self.seed >= 0,
        }
        for name, is_legal in legal.items():
            if not is_legal:
                raise InvalidInput(f"{name} is {getattr(self, name)}, out of its range.", param=name, remedy=_RANGES)


def single_turn(prompt: str, image: bytes | str | None, param: str = "image") -> Chat:
    """The pattern's own form: one picture, one question."""
    picture = () if image is None else (ImageInput(image, param),)
    return Chat((Turn(Role.USER, (*picture, Text(prompt))),))
