"""The OpenAI API's responses: made, streamed, read again from any event, cancelled, deleted. A view of predictions.

What was asked is kept with the prediction, in its details; its pictures apart, by name, so that a later request can go
on with the conversation: with a journaled prediction in the journal, else in memory.

Source: openai-python 3.57, resources/responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import InvalidRequest, NotFound
from lavatube.predictions.events import Completed, Started, joined
from lavatube.predictions.prediction import Prediction
from lavatube.prompt.chat import Chat
from lavatube.serve.auth import caller_of
from lavatube.serve.body import BodyReader
from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import json_response
from lavatube.serve.kept_pictures import KeptPictures
from lavatube.serve.model_names import check_model
from lavatube.serve.responses_chain import Chain
from lavatube.serve.responses_events import ResponseEvents
from lavatube.serve.responses_query import ListQuery, RetrieveQuery, parse_query
from lavatube.serve.responses_request import Asked, parse_response_request
from lavatube.serve.responses_views import PREFIX, ResponseView
from lavatube.serve.serving import Serving
from lavatube.serve.sse import KEEP_ALIVE, KEEP_ALIVE_S, EventStream

ONE: Final = "/v1/responses/{id}"


class ResponsesRoutes:
    """The handlers. `names`: what the model may be called; the first is the one that is reported."""

    def __init__(self, serving: Serving, bodies: BodyReader, *, names: Collection[str], max_new_tokens: int) -> None:
        self._serving = serving
        self._bodies = bodies
        self._names = tuple(names)
        self._max_new_tokens = max_new_tokens
        self._pictures = KeptPictures()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route(ONE, self.retrieve, methods=["GET"]),
            Route(ONE, self.delete, methods=["DELETE"]),
            Route(f"{ONE}/cancel", self.cancel, methods=["POST"]),
            Route(f"{ONE}/input_items", self.input_items, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response | EventStream:
        asked = await self._bodies.read(request, parse_response_request)
        check_model(asked.request.model, self._names)
        is_stream = bool(asked.request.stream)
        prediction = await self._predict(asked, caller_of(request).id)
        view = ResponseView(prediction, self._names[0])
        del asked  # the pictures are the preparer's now; a long answer must not keep them
        if is_stream:
            return await EventStream.begin(self._frames(view, -1, refuses=not view.is_background), request.receive)
        if view.is_background:
            return json_response(view.now())
        with self._serving.attached(prediction):
            await while_connected(request.receive, prediction.wait())
        if (error := view.error) is not None:
            raise error
        return json_response(view.now())

    async def retrieve(self, request: Request) -> Response | EventStream:
        """The response as it is; or its events, those that were as those to come."""
        query = parse_query(RetrieveQuery, request)
        view = await self._find(request)
        if query.stream:
            after = -1 if query.starting_after is None else query.starting_after
            return await EventStream.begin(self._frames(view, after, refuses=False), request.receive)
        return json_response(view.now())

    async def cancel(self, request: Request) -> Response:
        """Of one that has ended: what it is."""
        view = await self._find(request)
        if not view.is_background:
            raise InvalidRequest(
                "Only a response that runs in the background can be cancelled.",
                param="id",
                remedy="Close the connection of any other.",
            )
        await self._serving.end(view.prediction)
        return json_response(view.now())

    async def delete(self, request: Request) -> Response:
        view = await self._find(request)
        await self._serving.delete(view.prediction)
        return json_response({"id": view.id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """All that the answer was an answer to, page by page, the latest first."""
        query = parse_query(ListQuery, request)
        view = await self._find(request)
        chain = self._chain(caller_of(request).id)
        page = query.page(await chain.items(view.prediction))
        page["data"] = await chain.show(page["data"], shows_pictures=query.shows_pictures)
        return await asyncio.to_thread(json_response, page)

    async def _predict(self, asked: Asked, owner: str) -> Prediction:
        """Raises what the service does; NotFound for a response that came before."""
        service = await self._serving.open_service()
        chain, wanted = self._chain(owner), asked.request
        if wanted.references:
            answers = await chain.answers(wanted.references)
            asked = await asyncio.to_thread(asked.knowing, answers)
        with self._bodies.holding() as grow:
            before = await chain.turns(wanted.previous_response_id, grow)
            prediction = await service.create(
                Chat((*wanted.opening, *before, *asked.turns)),
                wanted.generation(self._max_new_tokens),
                is_detached=bool(wanted.background),
                is_journaled=bool(wanted.background),
                is_kept=wanted.is_stored,
                owner=owner,
                origin="openai",
                details={"response": wanted.echo, "items": asked.items},
                attachments=asked.pictures,
            )
        if not prediction.is_journaled:
            self._pictures.keep(asked.pictures)
        return prediction

    async def _frames(self, view: ResponseView, after: int, *, refuses: bool) -> AsyncGenerator[bytes, None]:
        """`refuses`: nothing is sent before the first token, so that a failure until then is a status.

        Unless that takes long: proxies cut a silent connection. What was held back comes before anything else.
        """
        told = ResponseEvents(view, after)
        held = told.beginning()
        with self._serving.attached(view.prediction):
            if held and not refuses:
                yield b"".join(held)
                held = []
            async with aclosing(view.prediction.log.follow(told.read_after, idle_s=KEEP_ALIVE_S)) as ready:
                async for events in ready:
                    held += [] if events else [KEEP_ALIVE]
                    refuses &= bool(events)
                    for event in joined(events):
                        if refuses and isinstance(event, Completed) and (error := view.error) is not None:
                            raise error
                        refuses &= isinstance(event, Started)
                        held += told.tell(event)
                    if held and not refuses:
                        yield b"".join(held)
                        held = []

    async def _find(self, request: Request) -> ResponseView:
        """Raises: NotFound, for another's too; NotReady while nobody can know."""
        prediction_id = request.path_params["id"].removeprefix(PREFIX)
        prediction = await self._serving.knowing_service().find(prediction_id, caller_of(request).id)
        if prediction is None or "response" not in prediction.details:
            raise NotFound("There is no such response.", param="id", remedy="Finished ones are kept for a while only.")
        return ResponseView(prediction, self._names[0])

    def _chain(self, owner: str) -> Chain:
        find = partial(self._serving.knowing_service().find, owner=owner)
        return Chain(find, self._pictures, self._serving.attachment)
