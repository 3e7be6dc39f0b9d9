"""Replicate's platform API: predictions of one model, that go on whoever reads them, in the words of its stock clients.

Source: what replicate 1.0.7 and 2.0.0b4 for Python and 1.4.0 for JavaScript send, as recorded.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import InvalidInput, InvalidRequest, NotFound
from lavatube.predictions.events import joined
from lavatube.predictions.prediction import Prediction, new_id
from lavatube.prompt.chat import Chat, single_turn
from lavatube.serve.auth import STREAM_PATHS, caller_of
from lavatube.serve.base_url import base_url
from lavatube.serve.body import BodyReader
from lavatube.serve.cog_views import time_text
from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import dump, json_response
from lavatube.serve.fields import validate
from lavatube.serve.kept import Kept
from lavatube.serve.prefer import parse_prefer
from lavatube.serve.replicate_files import own_file
from lavatube.serve.replicate_request import MAX_WAIT_S, ReplicateRequest, parse_duration, shown_input
from lavatube.serve.replicate_views import event_frames, is_plain, page_body, prediction_body
from lavatube.serve.served_model import ServedModel
from lavatube.serve.serving import Serving
from lavatube.serve.sse import KEEP_ALIVE, KEEP_ALIVE_S, EventStream

ORIGIN: Final = "replicate"
PAGE_SIZE: Final = 100
# A prediction's id, and what only those know who were given the URL.
_STREAM: Final = re.compile(r"([a-z2-7]{26})([a-z2-7]{26})")
_LAST_EVENT: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,2})")


class ReplicateRoutes:
    """The handlers of predictions. `public_url` is the server's, where it is not what clients say in Host."""

    def __init__(
        self,
        serving: Serving,
        bodies: BodyReader,
        model: ServedModel,
        kept: Kept,
        *,
        max_new_tokens: int,
        public_url: str,
    ) -> None:
        self._serving = serving
        self._bodies = bodies
        self._served = model
        self._kept = kept
        self._max_new_tokens = max_new_tokens
        self._public_url = public_url

    @property
    def _model(self) -> ServedModel:
        return self._served.having(self._serving.weights)

    def routes(self) -> list[Route]:
        return [
            Route("/v1/predictions", self.create, methods=["POST"]),
            Route("/v1/predictions", self.list, methods=["GET"]),
            Route("/v1/predictions/{id}", self.get, methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/models/{owner}/{name}/predictions", self.create_of_model, methods=["POST"]),
            Route("/v1/deployments/{owner}/{name}/predictions", self.create_of_deployment, methods=["POST"]),
            Route(STREAM_PATHS + "{name}", self.stream, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        asked = await self._read(request)
        self._model.check_version(asked.required_version())
        return await self._create(request, asked)

    async def create_of_model(self, request: Request) -> Response:
        self._model.check(request.path_params["owner"], request.path_params["name"])
        asked = await self._read(request)
        if asked.version is not None:
            self._model.check_version(asked.version)
        return await self._create(request, asked)

    async def create_of_deployment(self, request: Request) -> Response:
        """There is one deployment, and it has the model's name."""
        self._model.check(request.path_params["owner"], request.path_params["name"])
        return await self._create(request, await self._read(request), deployment=self._model.full_name)

    async def get(self, request: Request) -> Response:
        prediction = await self._find(request)
        return json_response(self._body(prediction, base_url(request, self._public_url)))

    async def cancel(self, request: Request) -> Response:
        """Of one that has ended, too: then nothing happens."""
        prediction = await self._find(request)
        await self._serving.end(prediction)
        return json_response(self._body(prediction, base_url(request, self._public_url)))

    async def list(self, request: Request) -> Response:
        if unknown := sorted(set(request.query_params) - {"cursor"}):
            name = unknown[0][:60]
            raise InvalidInput(f"There is no parameter {name}.", param=name, remedy="There is cursor.")
        base, before = base_url(request, self._public_url), request.query_params.get("cursor")
        found, cursor = await self._serving.ready_service().list(caller_of(request).id, ORIGIN, before, PAGE_SIZE)
        next_url = None if cursor is None else f"{base}/v1/predictions?cursor={cursor}"
        return json_response(page_body([self._body(one, base) for one in found], next_url))

    async def stream(self, request: Request) -> EventStream:
        """Whoever has the URL may read, without a key: nobody can guess it."""
        found = _STREAM.fullmatch(request.path_params["name"])
        service = self._serving.knowing_service()
        prediction = None if found is None else await service.find_by_key(found[1])
        if prediction is None or found is None or not _fits(found[2], prediction):
            raise NotFound("There is no such stream.", remedy="Finished predictions are kept for a while only.")
        after, part = _last_event(request)
        return await EventStream.begin(self._frames(prediction, after, part), request.receive)

    async def _read(self, request: Request) -> ReplicateRequest:
        return await self._bodies.read(request, partial(validate, ReplicateRequest))

    async def _create(self, request: Request, asked: ReplicateRequest, **more: str) -> Response:
        preference = parse_prefer(request.headers.getlist("prefer"))
        cancel_after = request.headers.get("cancel-after")
        cancel_after_s = None if cancel_after is None else parse_duration(cancel_after)
        hook = asked.hook
        if hook is not None:
            self._kept.postman.check(hook.url)
        generation = asked.input.generation(self._max_new_tokens)
        service = await self._serving.open_service()
        base, owner = base_url(request, self._public_url), caller_of(request).id
        details: dict[str, Any] = {
            "model": self._model.full_name,
            "version": self._model.version,
            "input": await asyncio.to_thread(shown_input, asked.input),
            "base_url": base,
            "stream_key": new_id(),
            **more,
        }
        cancel_at = None if cancel_after_s is None else datetime.now(UTC) + timedelta(seconds=cancel_after_s)
        if cancel_at is not None:
            details["deadline"] = time_text(cancel_at)
        chat = await self._chat(asked, owner, base)
        prediction = await service.create(
            chat,
            generation,
            is_detached=True,
            is_journaled=True,
            owner=owner,
            origin=ORIGIN,
            details=details,
            webhook=hook,
            cancel_at=cancel_at,
        )
        del asked, chat  # the picture is the preparer's now; a long answer must not keep it
        if not preference.has_wait:
            return json_response(self._body(prediction, base, as_starting=True), 201)
        wait_s = min(preference.wait_s or MAX_WAIT_S, MAX_WAIT_S)
        await while_connected(request.receive, prediction.wait(wait_s))
        headers = {"Preference-Applied": f"wait={wait_s:g}"}
        return json_response(self._body(prediction, base, as_starting=True), 201, headers)

    async def _chat(self, asked: ReplicateRequest, owner: str, base: str) -> Chat:
        """A picture that was uploaded here is taken from the store: the server does not call itself."""
        file_id = own_file(asked.input.image, base)
        if file_id is None:
            return asked.input.chat
        content = await asyncio.to_thread(self._kept.files.read, owner, file_id)
        return single_turn(asked.input.prompt, content, param="input.image")

    async def _find(self, request: Request) -> Prediction:
        """One that was made through this API, by this caller. Raises: NotFound."""
        prediction = await self._serving.find(request.path_params["id"], caller_of(request).id)
        if prediction.origin != ORIGIN:
            raise NotFound(
                "There is no such prediction.", param="id", remedy="Finished predictions are kept for a while only."
            )
        return prediction

    def _body(self, prediction: Prediction, base: str, *, as_starting: bool = False) -> dict[str, Any]:
        return prediction_body(prediction, base, _stream_url(prediction, base), as_starting=as_starting)

    async def _frames(self, prediction: Prediction, after: int, part: int) -> AsyncGenerator[bytes, None]:
        """From the `part`-th frame of the event that follows `after`."""
        async with aclosing(prediction.log.follow(after, idle_s=KEEP_ALIVE_S)) as ready:
            async for events in ready:
                frames = [] if events else [KEEP_ALIVE]
                if part and events:  # of the first event only what follows its part
                    frames += event_frames(prediction, events.pop(0), part)
                    part = 0
                for event in joined(events, is_plain):
                    frames += event_frames(prediction, event)
                if frames:
                    yield b"".join(frames)


def render(prediction: Prediction) -> bytes:
    """What a webhook is sent: what GET answers, with the server's name as the creator of the prediction used it."""
    base = prediction.details["base_url"]
    return dump(prediction_body(prediction, base, _stream_url(prediction, base)))


def _stream_url(prediction: Prediction, base: str) -> str:
    return f"{base}{STREAM_PATHS}{prediction.key}{prediction.details['stream_key']}"


def _fits(key: str, prediction: Prediction) -> bool:
    return hmac.compare_digest(key, prediction.details.get("stream_key", ""))


def _last_event(request: Request) -> tuple[int, int]:
    """Where to go on: after which event, and with which frame of the next. Raises: InvalidRequest."""
    text = request.headers.get("last-event-id")
    if text is None:
        return 0, 0
    found = _LAST_EVENT.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            "Last-Event-ID is not the id of an event.", param="last-event-id", remedy="Send one, or leave it out."
        )
    return max(int(found[1]) - 1, 0), int(found[2]) + 1
