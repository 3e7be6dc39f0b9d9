"""The OpenAI API: chat completions, streamed or whole, and the models. A view of predictions, like Cog's.

Source: openai-python 3.57, types/chat; protocols as recorded with the stock clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.predictions.events import Completed, Ended, Output, joined
from lavatube.serve.auth import caller_of
from lavatube.serve.body import BodyReader
from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import json_response
from lavatube.serve.model_names import check_model
from lavatube.serve.openai_request import parse_chat_request
from lavatube.serve.openai_views import ChatView
from lavatube.serve.serving import Serving
from lavatube.serve.sse import KEEP_ALIVE, KEEP_ALIVE_S, EventStream

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
        check_model(request.path_params["id"], self._names)
        return json_response(self._model())

    async def complete(self, request: Request) -> Response | EventStream:
        asked = await self._bodies.read(request, parse_chat_request)
        check_model(asked.model, self._names)
        chat, generation = asked.chat, asked.generation(self._max_new_tokens)
        is_stream, includes_usage = bool(asked.stream), asked.includes_usage
        service = await self._serving.open_service()
        prediction = await service.create(chat, generation, owner=caller_of(request).id, origin="openai")
        del asked, chat  # the pictures are the preparer's now; a long answer must not keep them
        view = ChatView(prediction, self._names[0], includes_usage, generation.top_logprobs is not None)
        if is_stream:
            return await EventStream.begin(self._frames(view), request.receive)
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
            async with aclosing(view.prediction.log.follow(idle_s=KEEP_ALIVE_S)) as ready:
                async for events in ready:
                    frames = [] if events else [KEEP_ALIVE]
                    for event in joined(events):
                        match event:
                            case Output():
                                frames += [view.opening(event.choice)] if event.index == 0 else []
                                frames.append(view.delta(event))
                            case Ended():
                                frames += view.choice_ending(event.choice)
                            case Completed():
                                frames += view.ending(is_open=is_open or bool(frames))
                    if frames:
                        yield b"".join(frames)
                        is_open = True

    def _model(self) -> dict[str, object]:
        return {"id": self._names[0], "object": "model", "created": self._created, "owned_by": OWNER}
