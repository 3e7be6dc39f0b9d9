"""A conversation as every protocol hands it on: turns of text and images, and how to answer. Knows no template."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    came from, so that an error can name it.
    """

    source: bytes | str
    param: str = "image"


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
class Generation:
    """How to answer. `max_tokens` None means: as much as the context holds; `seed` None means: a random one."""

    max_tokens: int | None = None
    temperature: float = 0.2
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()


def single_turn(prompt: str, image: bytes | str | None, param: str = "image") -> Chat:
    """The pattern's own form: one picture, one question."""
    picture = () if image is None else (ImageInput(image, param),)
    return Chat((Turn(Role.USER, (*picture, Text(prompt))),))
