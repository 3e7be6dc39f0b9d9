"""The `input` of a response → turns of a conversation, and items as they are kept and listed.

A kept item names its pictures by digest, which keeps it small; `responses_chain.py` finds them.

Source: openai-python 3.57, types/responses/response_input_item_param.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from lavatube.prompt.chat import ImageInput, Part, Role, Text, Turn
from lavatube.serve.fields import Problem, StrictModel, at_most, invalid, misfit

MAX_ITEMS: Final = 1024
MAX_PARTS: Final = 256
NAME: Final = "sha256"
# What clients send back of a message that they were sent, without which it means the same.
LABELS: Final = ("phase", "status")

Item = dict[str, Any]
ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class TextPart(StrictModel):
    """`annotations` and `logprobs` come back with an assistant's own text."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], at_most(0)] | None = None
    logprobs: list[Any] | None = None


class ImagePart(StrictModel):
    """`detail` low is the whole picture in one tile; all others are the tiles that the checkpoint was trained with."""

    type: Literal["input_image"]
    image_url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] = "auto"
    file_id: None = None

    @field_validator("file_id", mode="before")
    @classmethod
    def _no_files(cls, value: object) -> object:
        if value is not None:
            raise misfit("", "Pictures that were uploaded as files are not served.", "Send an image_url.")
        return value


class Message(StrictModel):
    type: Literal["message"] = "message"
    id: ItemId | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(fail_fast=True), at_most(MAX_PARTS)
    ]

    @model_validator(mode="before")
    @classmethod
    def _is_message(cls, value: object) -> object:
        """A text is one part, of the side that says it; empty fields and labels are not looked at."""
        if not isinstance(value, dict):
            return value
        if value.get("type", "message") != "message":
            others = "Leave out items of tools, reasoning and files."
            raise misfit("type", "Only messages and references to answers are served as input.", others)
        kept = {name: field for name, field in value.items() if not (field is None or name in LABELS)}
        if isinstance(kept.get("content"), str):
            kind = "output_text" if kept.get("role") == "assistant" else "input_text"
            kept["content"] = [{"type": kind, "text": kept["content"]}]
        return kept


class Reference(StrictModel):
    """An answer that was given before, by the id of its item. Clients send it for what they know to be stored."""

    role: ClassVar = "assistant"

    type: Literal["item_reference"]
    id: ItemId

    def told(self, text: str) -> Message:
        """The message that it stands for."""
        return Message(id=self.id, role="assistant", content=[TextPart(type="output_text", text=text)])


def _kind(value: object) -> str:
    """What the tags below say."""
    is_reference = isinstance(value, Reference) or (isinstance(value, dict) and value.get("type") == "item_reference")
    return "reference" if is_reference else "message"


InputItem = Annotated[Annotated[Message, Tag("message")] | Annotated[Reference, Tag("reference")], Discriminator(_kind)]


def as_items(value: object) -> object:
    """A text is a user's message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def turns_of(messages: Mapping[int, Message]) -> tuple[Turn, ...]:
    """Of messages by their place. Raises InvalidFields for a picture outside a user's message."""
    return tuple(_turn(index, message) for index, message in messages.items())


def kept_items(messages: Iterable[Message], pictures: dict[str, str]) -> list[Item]:
    """As they are kept; pictures in data: URLs go into `pictures`, by name. Takes a while for large ones."""
    return [_kept(message, pictures) for message in messages]


def picture_names(items: Sequence[Item]) -> list[str]:
    """Of the pictures that kept items have by name, each once, in their order."""
    return list(dict.fromkeys(part[NAME] for item in items for part in item["content"] if NAME in part))


def turns_of_kept(items: Sequence[Item], param: str, pictures: Mapping[str, str]) -> tuple[Turn, ...]:
    """The turns that kept items were; `pictures` has what their names stand for."""
    return tuple(_kept_turn(item, param, pictures) for item in items)


def listed(item: Item, item_id: str) -> Item:
    """A kept item as it is listed, its pictures still by name."""
    content = [_shown(part) for part in item["content"]]
    return {"id": item.get("id") or item_id, "type": "message", "role": item["role"], "status": "completed"} | {
        "content": content
    }


def _shown(part: Item) -> Item:
    return {**part, "annotations": [], "logprobs": []} if part["type"] == "output_text" else part


def _kept(message: Message, pictures: dict[str, str]) -> Item:
    content: list[Item] = []
    for part in message.content:
        if isinstance(part, TextPart):
            content.append({"type": part.type, "text": part.text})
            continue
        picture = {"type": part.type, "detail": part.detail}
        if part.image_url[:5].lower() == "data:":
            name = sha256(part.image_url.encode()).hexdigest()
            pictures[name] = part.image_url
            content.append(picture | {NAME: name})
        else:
            content.append(picture | {"image_url": part.image_url})
    item: Item = {"role": message.role, "content": content}
    return item if message.id is None else item | {"id": message.id}


def _turn(index: int, message: Message) -> Turn:
    role = _role(message.role)
    parts: list[Part] = []
    for place, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append(Text(part.text))
            continue
        param = f"input.{index}.content.{place}.image_url"
        if role is not Role.USER:
            raise invalid([Problem(param, "Only a user's message may have pictures.", "Put it into one.")])
        parts.append(ImageInput(part.image_url, param, "low" if part.detail == "low" else "high"))
    return Turn(role, tuple(parts))


def _kept_turn(item: Item, param: str, pictures: Mapping[str, str]) -> Turn:
    parts: list[Part] = []
    for part in item["content"]:
        if part["type"] != "input_image":
            parts.append(Text(part["text"]))
            continue
        source = pictures[part[NAME]] if NAME in part else part["image_url"]
        parts.append(ImageInput(source, param, "low" if part["detail"] == "low" else "high"))
    return Turn(_role(item["role"]), tuple(parts))


def _role(name: str) -> Role:
    return Role.SYSTEM if name == "developer" else Role(name)
