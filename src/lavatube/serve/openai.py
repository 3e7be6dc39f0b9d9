"""The OpenAI API: chat completions, streamed or whole, and the models. A view of predictions, like Cog's.

Source: openai-python 3.57, types/chat; protocols as recorded with the stock clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import Conflict, LavatubeError, ModelNotFound
from lavatube.predictions.events import Completed, Output, Started, Usage
from lavatube.predictions.prediction import Prediction
from lavatube.serve.body import BodyReader
from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import json_response, openai_body
from lavatube.serve.openai_request import parse_chat_request
from lavatube.serve.serving import Serving
from lavatube.serve.sse import KEEP_ALIVE, KEEP_ALIVE_S, EventStream, frame, raw_frame

DONE: Final = raw_frame(b"[DONE]")
OWNER: Final = "lavatube"


class OpenAIRoutes:
    """The handlers. `names`: what the model may be called; the first is the one that is reported."""

    def __init__(
        self, serving: Serving, bodies: BodyReader, *, names: Collection[str], created: int, max_new_tokens: int
    ) -> None:
        self._serving = serving
        self._bodies = bodies
        self._names = tuple(names)
        self._created = created
        self._max_new_tokens = max_new_tokens

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{id:path}", self.model),
        ]

    async def models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["id"])
        return json_response(self._model())

    async def complete(self, request: Request) -> Response | EventStream:
        asked = parse_chat_request(await self._bodies.read_json(request))
        self._check_name(asked.model)
        chat, generation = asked.chat, asked.generation(self._max_new_tokens)
        is_stream, includes_usage = bool(asked.stream), asked.includes_usage
        prediction = self._serving.ready_service().create(chat, generation)
        del asked, chat  # the pictures are the preparer's now; a long answer must not keep them
        view = ChatView(prediction, self._names[0], includes_usage)
        if is_stream:
            frames = self._frames(view)
            first = await while_connected(request.receive, _first(frames))
            return EventStream(frames, first=first)
        with self._serving.attached(prediction):
            await while_connected(request.receive, prediction.wait())
        if (error := view.error) is not None:
            raise error
        return json_response(view.completion())

    async def _frames(self, view: ChatView) -> AsyncGenerator[bytes, None]:
        """Nothing is sent before the first token, so that a failure until then is a status that clients retry.

        Unless that takes long: proxies cut a silent connection.
        """
        is_open = False
        with self._serving.attached(view.prediction):
            async with aclosing(view.prediction.log.read(idle_s=KEEP_ALIVE_S)) as events:
                async for event in events:
                    match event:
                        case None:
                            yield KEEP_ALIVE
                            is_open = True
                        case Started():
                            pass
                        case Output():
                            if event.index == 0:
                                yield view.opening()
                            yield view.delta(event.text)
                            is_open = True
                        case Completed():
                            for piece in view.ending(is_open=is_open):
                                yield piece

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            raise ModelNotFound(
                "There is no such model here.", param="model", remedy=f"This server serves {self._names[0]}."
            )

    def _model(self) -> dict[str, object]:
        return {"id": self._names[0], "object": "model", "created": self._created, "owned_by": OWNER}


@dataclass(frozen=True, slots=True)
class ChatView:
    """One prediction in OpenAI's words."""

    prediction: Prediction
    model: str
    includes_usage: bool

    @property
    def error(self) -> LavatubeError | None:
        """Why there is no whole answer."""
        if self.prediction.error is None and self.prediction.finish_reason is None:
            return Conflict("The completion was cancelled.")
        return self.prediction.error

    def completion(self) -> dict[str, object]:
        message = {"role": "assistant", "content": self.prediction.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.prediction.finish_reason}
        return self._head("chat.completion") | {"choices": [choice], "usage": _usage(self.prediction.usage)}

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def ending(self, *, is_open: bool) -> list[bytes]:
        """The last frames. Raises the prediction's error when nothing was sent yet: then it is a status."""
        if (error := self.error) is not None:
            if not is_open:
                raise error
            return [frame(openai_body(error))]
        opening = [] if self.prediction.has_output else [self.opening()]
        usage = [self._usage_chunk()] if self.includes_usage else []
        return [*opening, self._chunk({}, self.prediction.finish_reason), *usage, DONE]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage: dict[str, object] = {"usage": None} if self.includes_usage else {}
        return frame(self._head("chat.completion.chunk") | {"choices": [choice]} | usage)

    def _usage_chunk(self) -> bytes:
        return frame(self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(self.prediction.usage)})

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": f"chatcmpl-{self.prediction.id}",
            "object": kind,
            "created": int(self.prediction.created_at.timestamp()),
            "model": self.model,
        }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
    }


async def _first(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames)
