"""The HTTP application: all routes of all protocols on one port, inside the rings that every request passes."""

from __future__ import annotations

import time
from difflib import get_close_matches
from functools import cache
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import InvalidRequest, LavatubeError, MethodNotAllowed, NotFound
from lavatube.serve.auth import KeyCheck, Keyring
from lavatube.serve.body import MIB, BodyReader
from lavatube.serve.boundary import Boundary
from lavatube.serve.cog import CogRoutes
from lavatube.serve.dialects import json_response
from lavatube.serve.estimate import EstimateRoute
from lavatube.serve.health import health_routes
from lavatube.serve.kept import Kept
from lavatube.serve.limits import HeaderLimit, HostCheck
from lavatube.serve.metrics import Metrics
from lavatube.serve.openai import OpenAIRoutes
from lavatube.serve.openapi_v1 import v1_document
from lavatube.serve.origins import Origins
from lavatube.serve.playground import playground_route
from lavatube.serve.replicate import ReplicateRoutes
from lavatube.serve.replicate_catalogue import CatalogueRoutes
from lavatube.serve.replicate_files import FileRoutes
from lavatube.serve.responses import ResponsesRoutes
from lavatube.serve.served_model import ServedModel
from lavatube.serve.serving import Serving
from lavatube.settings import Settings

MAX_PATH_CHARS: Final = 100


def build_app(
    serving: Serving,
    settings: Settings,
    keyring: Keyring | None = None,
    metrics: Metrics | None = None,
    kept: Kept | None = None,
) -> Starlette:
    """The application for these settings; it answers before there is a model, and says so.

    `keyring`: by default the key of the settings and no other. `metrics`: by default of nothing but HTTP. `kept`: what
    Replicate's routes need of a database; without it there are none of them.
    """
    keyring = keyring or Keyring(settings.api_key)
    metrics = metrics or Metrics(serving)
    bodies = BodyReader(max_bytes=settings.max_body_mib * MIB)
    postman = kept.postman if kept else None
    cog = CogRoutes(serving, bodies, max_new_tokens=settings.max_new_tokens, postman=postman)
    openai = OpenAIRoutes(
        serving,
        bodies,
        names=(settings.served_name, settings.model),
        created=int(time.time()),
        max_new_tokens=settings.max_new_tokens,
    )
    responses = ResponsesRoutes(
        serving, bodies, names=(settings.served_name, settings.model), max_new_tokens=settings.max_new_tokens
    )
    estimate = EstimateRoute(serving, bodies, names=(settings.served_name, settings.model))
    hosts = [host.strip() for host in settings.allowed_hosts.split(",") if host.strip()]
    origins = Origins(settings.allowed_origins)
    app = Starlette(
        routes=[
            *health_routes(serving.health),
            *cog.routes(),
            *_replicate(serving, bodies, settings, kept),
            *openai.routes(),
            *responses.routes(),
            *estimate.routes(),
            _described(settings, with_replicate=kept is not None),
            metrics.route(),
            playground_route(),
        ],
        middleware=[
            *origins.middleware(),
            Middleware(Boundary, on_answer=metrics.answered),
            Middleware(HeaderLimit),
            Middleware(HostCheck, keyring=keyring, origins=origins, hosts=hosts),
            Middleware(KeyCheck, keyring=keyring),
        ],
        exception_handlers={HTTPException: _as_ours},
    )
    app.router.redirect_slashes = False
    return app


def _replicate(serving: Serving, bodies: BodyReader, settings: Settings, kept: Kept | None) -> list[Route]:
    """Before OpenAI's routes: the paths that both have are answered for both."""
    if kept is None:
        return []
    model, limit = ServedModel.of(settings), settings.max_new_tokens
    url = settings.public_url
    predictions = ReplicateRoutes(serving, bodies, model, kept, max_new_tokens=limit, public_url=url)
    catalogue = CatalogueRoutes(serving, model, kept, max_new_tokens=limit, public_url=url)
    files = FileRoutes(bodies, kept.files, public_url=url)
    return [*predictions.routes(), *catalogue.routes(), *files.routes()]


def _described(settings: Settings, *, with_replicate: bool) -> Route:
    """What lies under /v1; Cog's routes have a document of their own, in its shape."""

    @cache
    def answer() -> Response:  # not at start-up, which is to be short
        return json_response(v1_document(ServedModel.of(settings), with_replicate=with_replicate))

    async def show(request: Request) -> Response:
        return answer()

    return Route("/v1/openapi.json", show, methods=["GET"])


def _as_ours(request: Request, error: Exception) -> Response:
    """The router's own errors; the boundary answers them like all others."""
    assert isinstance(error, HTTPException)
    raise _ours(error, request)


def _ours(error: HTTPException, request: Request) -> LavatubeError:
    match error.status_code:
        case 404:
            paths = [route.path for route in request.app.routes]
            near = get_close_matches(request.url.path[:MAX_PATH_CHARS], paths, n=1, cutoff=0.75)
            remedy = f"{near[0]} may be meant." if near else "GET / and GET /v1/openapi.json list what is there."
            return NotFound("There is nothing at this path.", remedy=remedy)
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed("This path does not take this method.", remedy=f"It takes {allowed}.")
        case _:
            return InvalidRequest(str(error.detail), remedy="Send another request.")
