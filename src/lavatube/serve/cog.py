"""The Cog container API: discovery, health, predictions as JSON or server-sent events, and what Cog lacks: reading one.

Cog's routes, bodies and states, so that its tooling works unchanged; where the behaviour is better, docs say so.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from lavatube import __version__
from lavatube.errors import Forbidden, ForbiddenWebhookUrl, InvalidRequest
from lavatube.predictions.events import Completed, joined
from lavatube.predictions.postman import Postman
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.webhook import Webhook
from lavatube.serve.auth import caller_of, check_operator
from lavatube.serve.body import BodyReader
from lavatube.serve.cog_inputs import PredictionRequest, fingerprint
from lavatube.serve.cog_views import COG_VERSION, event_frame, health_body, refusal, snapshot
from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import dump, json_response
from lavatube.serve.fields import Problem, invalid, validate
from lavatube.serve.openapi import openapi_document
from lavatube.serve.playground import PLAYGROUND_PATH
from lavatube.serve.prefer import Preference, parse_prefer
from lavatube.serve.serving import Serving
from lavatube.serve.sse import KEEP_ALIVE, KEEP_ALIVE_S, EventStream

ORIGIN: Final = "cog"
PROXY_HEADERS: Final = ("forwarded", "via", "x-real-ip")


class CogRoutes:
    """The handlers."""

    def __init__(
        self, serving: Serving, bodies: BodyReader, *, max_new_tokens: int, postman: Postman | None = None
    ) -> None:
        self._serving = serving
        self._bodies = bodies
        self._max_new_tokens = max_new_tokens
        self._postman = postman
        self._document = openapi_document(max_new_tokens)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.discover),
            Route("/health-check", self.health_check),
            Route("/openapi.json", self.openapi),
            Route("/predictions", self.create, methods=["POST"]),
            Route("/predictions/{id}", self.one, methods=["GET", "PUT"]),
            Route("/predictions/{id}/stream", self.stream, methods=["GET"]),
            Route("/predictions/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/shutdown", self.shutdown, methods=["POST"]),
        ]

    async def discover(self, request: Request) -> Response:
        """A browser, which alone asks for HTML, is led to the page for people."""
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(PLAYGROUND_PATH.removeprefix("/"), 303, {"Vary": "Accept"})
        return json_response(
            {
                "cog_version": COG_VERSION,
                "lavatube_version": __version__,
                "openapi_url": "/openapi.json",
                "shutdown_url": "/shutdown",
                "healthcheck_url": "/health-check",
                "predictions_url": "/predictions",
                "predictions_idempotent_url": "/predictions/{prediction_id}",
                "predictions_cancel_url": "/predictions/{prediction_id}/cancel",
                "predictions_stream_url": "/predictions/{prediction_id}/stream",
                "playground_url": PLAYGROUND_PATH,
                "v1_openapi_url": "/v1/openapi.json",
                "metrics_url": "/metrics",
            }
        )

    async def health_check(self, request: Request) -> Response:
        """Always 200, as Cog documents; /readyz says the same by its status."""
        service = self._serving.service
        return json_response(
            health_body(self._serving.health().shown_to(request), is_busy=service is not None and service.is_busy)
        )

    async def openapi(self, request: Request) -> Response:
        return json_response(self._document)

    async def create(self, request: Request) -> Response | EventStream:
        return await self._create(request, None)

    async def one(self, request: Request) -> Response | EventStream:
        prediction_id = request.path_params["id"]
        if request.method == "PUT":
            return await self._create(request, prediction_id)
        return json_response(snapshot(await self._serving.find(prediction_id, caller_of(request).id)))

    async def stream(self, request: Request) -> EventStream:
        """Also of a prediction that was refused: here that is its result."""
        prediction = await self._serving.find(request.path_params["id"], caller_of(request).id)
        return await self._events(request, prediction, _last_event_id(request), refuses=False)

    async def cancel(self, request: Request) -> Response:
        await self._serving.cancel(request.path_params["id"], caller_of(request).id)
        return json_response({})

    async def shutdown(self, request: Request) -> Response:
        """For an operator's key, or without any on this machine; never for a web page, whose browser sends Origin."""
        check_operator(request)
        if "origin" in request.headers or not (caller_of(request).is_operator or _is_local(request)):
            raise Forbidden("Only this machine itself may stop the server.", remedy="Set an API key to allow others.")
        self._serving.shutdown()
        return json_response({})

    async def _create(self, request: Request, path_id: str | None) -> Response | EventStream:
        """One create, three ways to answer: as events, at once, or when it is done."""
        asked = await self._bodies.read(request, lambda body: validate(PredictionRequest, _with_id(body, path_id)))
        hook = self._hook(asked)
        generation = asked.input.generation(self._max_new_tokens)
        digest = await asyncio.to_thread(fingerprint, asked.input) if asked.id else b""
        owner = caller_of(request).id
        service, known = await self._serving.service_for(asked.id, owner)
        wants_events = _accepts_events(request)
        preference, after = parse_prefer(request.headers.getlist("prefer")), _last_event_id(request)
        prediction = await service.create(
            asked.input.chat,
            generation,
            prediction_id=asked.id,
            fingerprint=digest,
            is_detached=preference.is_async,
            is_journaled=_may_be_asked_for(asked, preference),
            owner=owner,
            origin=ORIGIN,
            webhook=hook,
        )
        is_known = prediction is known
        del asked  # the picture is the preparer's now; a long answer must not keep it
        if wants_events:
            headers = Preference(is_async=preference.is_async).headers
            return await self._events(request, prediction, after if is_known else 0, refuses=True, headers=headers)
        if is_known and preference.wait_s is None:
            return _now(prediction, Preference())
        return await self._answer(request, prediction, preference)

    def _hook(self, asked: PredictionRequest) -> Webhook | None:
        """Raises: InvalidWebhookUrl, ForbiddenWebhookUrl."""
        hook = asked.hook
        if hook is not None and self._postman is None:
            raise ForbiddenWebhookUrl("This server sends no webhooks.", param="webhook", remedy="Leave it out.")
        if hook is not None and self._postman is not None:
            self._postman.check(hook.url)
        return hook

    async def _answer(self, request: Request, prediction: Prediction, preference: Preference) -> Response:
        """Wait as long as the client prefers; what is not done by then goes on without it."""
        limit_s = preference.wait_limit_s
        if limit_s == 0:
            prediction.is_detached = True
            return _now(prediction, preference)
        with self._serving.attached(prediction):
            is_done = await while_connected(request.receive, prediction.wait(limit_s))
            prediction.is_detached |= not is_done
        return _now(prediction, preference)

    async def _events(
        self,
        request: Request,
        prediction: Prediction,
        after: int,
        *,
        refuses: bool,
        headers: Mapping[str, str] | None = None,
    ) -> EventStream:
        return await EventStream.begin(self._frames(prediction, after, refuses=refuses), request.receive, headers)

    async def _frames(self, prediction: Prediction, after: int, *, refuses: bool) -> AsyncGenerator[bytes, None]:
        with self._serving.attached(prediction):
            async with aclosing(prediction.log.follow(after, idle_s=KEEP_ALIVE_S)) as ready:
                async for events in ready:
                    if refuses and events and isinstance(events[0], Completed) and (error := refusal(prediction)):
                        raise error
                    refuses = False
                    frames = [frame for event in joined(events) if (frame := event_frame(prediction, event))]
                    if piece := b"".join(frames) if events else KEEP_ALIVE:
                        yield piece


def render(prediction: Prediction) -> bytes:
    """What a webhook is sent."""
    return dump(snapshot(prediction))


def _now(prediction: Prediction, preference: Preference) -> Response:
    """The prediction as it is. Raises what refused it."""
    error = refusal(prediction)
    if error is not None:
        raise error
    return json_response(snapshot(prediction), 200 if prediction.status.is_terminal else 202, preference.headers)


def _may_be_asked_for(asked: PredictionRequest, preference: Preference) -> bool:
    """On another connection than the one that it is made on."""
    return preference.wait_limit_s is not None or asked.id is not None or asked.hook is not None


def _with_id(body: dict[str, object], path_id: str | None) -> dict[str, object]:
    if path_id is None:
        return body
    if body.get("id", path_id) != path_id:
        raise invalid([Problem("id", "prediction ID must match the ID supplied in the URL", "Leave one out.")])
    return body | {"id": path_id}


def _accepts_events(request: Request) -> bool:
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(item.partition(";")[0].strip() == "text/event-stream" for item in accepted)


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(
            "Last-Event-ID is not the id of an event.", param="last-event-id", remedy="Send a number, or leave it out."
        )
    return int(text)


def _is_local(request: Request) -> bool:
    """A Unix socket has no address, and neither has a client that has gone. Behind a proxy on this machine every client
    has this machine's.
    """
    if any(name in PROXY_HEADERS or name.startswith("x-forwarded-") for name in request.headers):
        return False
    if request.client is None or not request.client.host:
        _, port = request.scope.get("server") or ("", None)
        return port is None
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
