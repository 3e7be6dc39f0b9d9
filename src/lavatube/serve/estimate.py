"""`POST /v1/estimate`: what a conversation costs, by its texts and the sizes of its pictures, before any is sent.

The body is that of a chat completion, but that a picture is `{"type": "image_size", "width": …, "height": …}`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, field_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.geometry import Detail, ImagePlan
from lavatube.prompt.chat import Chat, ImageInput, Part
from lavatube.prompt.prepare import Estimate
from lavatube.serve.body import BodyReader
from lavatube.serve.dialects import json_response
from lavatube.serve.fields import StrictModel, at_most, validate
from lavatube.serve.model_names import check_model
from lavatube.serve.openai_request import MAX_MESSAGES, MAX_PARTS, TextPart, read_turn
from lavatube.serve.serving import Serving


class SizePart(StrictModel):
    """A picture by its width and height as a person sees it, in pixels."""

    type: Literal["image_size"]
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    detail: Literal["auto", "low", "high", "original"] = "auto"

    def read(self, param: str) -> Part:
        detail: Detail = "low" if self.detail == "low" else "high"
        return ImageInput("", param, detail)


class SizedMessage(StrictModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Annotated[TextPart | SizePart, Field(discriminator="type")]], Field(fail_fast=True), at_most(MAX_PARTS)
    ]

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class EstimateRequest(StrictModel):
    messages: Annotated[list[SizedMessage], Field(min_length=1, fail_fast=True), at_most(MAX_MESSAGES)]
    model: str | None = None

    @property
    def sizes(self) -> list[SizePart]:
        return [part for message in self.messages for part in message.content if isinstance(part, SizePart)]

    @property
    def chat(self) -> Chat:
        """Raises InvalidFields for a picture outside a user's message."""
        return Chat(
            tuple(read_turn(index, message.role, message.content) for index, message in enumerate(self.messages))
        )


class EstimateRoute:
    """The handler. `names`: what the model may be called."""

    def __init__(self, serving: Serving, bodies: BodyReader, names: Collection[str]) -> None:
        self._serving = serving
        self._bodies = bodies
        self._names = tuple(names)

    def routes(self) -> list[Route]:
        return [Route("/v1/estimate", self.estimate, methods=["POST"])]

    async def estimate(self, request: Request) -> Response:
        asked = await self._bodies.read(request, partial(validate, EstimateRequest))
        if asked.model is not None:
            check_model(asked.model, self._names)
        sizes = [(size.width, size.height) for size in asked.sizes]
        estimate = await self._serving.ready_service().estimate(asked.chat, sizes)
        return json_response({"object": "estimate", "model": self._names[0]} | _answer(estimate, sizes))


def _answer(estimate: Estimate, sizes: list[tuple[int, int]]) -> dict[str, object]:
    images = [_image(plan, *size) for plan, size in zip(estimate.images, sizes, strict=True)]
    return {
        "prompt_tokens": estimate.prompt_tokens,
        "text_tokens": estimate.text_tokens,
        "image_tokens": estimate.image_tokens,
        "images": images,
        "context_tokens": estimate.context_tokens,
        "max_completion_tokens": estimate.room_tokens,
    }


def _image(plan: ImagePlan, width: int, height: int) -> dict[str, object]:
    return {
        "width": width,
        "height": height,
        "tokens": plan.num_tokens,
        "tiles": plan.tiles,
        "grid": [plan.grid_cols, plan.grid_rows],
    }
