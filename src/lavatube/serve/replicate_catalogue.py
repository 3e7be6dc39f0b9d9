"""What Replicate's clients ask about before they predict: the model, its version, its deployment; one of each.

`/v1/models` and `/v1/models/{owner}/{name}` are OpenAI's, too: one body answers both.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.serve.auth import caller_of
from lavatube.serve.base_url import base_url
from lavatube.serve.dialects import json_response
from lavatube.serve.kept import Kept
from lavatube.serve.openapi import openapi_document
from lavatube.serve.replicate_views import (
    account_body,
    deployment_body,
    model_body,
    openai_model_body,
    page_body,
    version_body,
)
from lavatube.serve.served_model import ServedModel
from lavatube.serve.serving import Serving


class CatalogueRoutes:
    """The handlers."""

    def __init__(
        self, serving: Serving, model: ServedModel, kept: Kept, *, max_new_tokens: int, public_url: str
    ) -> None:
        self._serving = serving
        self._served = model
        self._kept = kept
        self._schema = openapi_document(max_new_tokens)
        self._public_url = public_url

    @property
    def _model(self) -> ServedModel:
        return self._served.having(self._serving.weights)

    def routes(self) -> list[Route]:
        model, deployment = "/v1/models/{owner}/{name}", "/v1/deployments/{owner}/{name}"
        return [
            Route("/v1/models", self.models, methods=["GET", "QUERY"]),
            Route(model, self.model, methods=["GET"]),
            Route(f"{model}/versions", self.versions, methods=["GET"]),
            Route(f"{model}/versions/{{id}}", self.version, methods=["GET"]),
            Route("/v1/deployments", self.deployments, methods=["GET"]),
            Route(deployment, self.deployment, methods=["GET"]),
            Route("/v1/account", self.account, methods=["GET"]),
            Route("/v1/hardware", self.hardware, methods=["GET"]),
            Route("/v1/collections", self.collections, methods=["GET"]),
            Route("/v1/webhooks/default/secret", self.secret, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """The list, and the answer to a search: whoever looks for a model finds the one that there is."""
        names = {"models": list(self._model.names[:1]), "object": "list", "data": [openai_model_body(self._model)]}
        return json_response(page_body([self._body(request)]) | names)

    async def model(self, request: Request) -> Response:
        self._check(request)
        return json_response(self._body(request))

    async def versions(self, request: Request) -> Response:
        self._check(request)
        return json_response(page_body([version_body(self._model, self._schema)]))

    async def version(self, request: Request) -> Response:
        self._check(request)
        self._model.check_version(request.path_params["id"])
        return json_response(version_body(self._model, self._schema))

    async def deployments(self, request: Request) -> Response:
        return json_response(page_body([self._deployment()]))

    async def deployment(self, request: Request) -> Response:
        self._check(request)
        return json_response(self._deployment())

    async def account(self, request: Request) -> Response:
        return json_response(account_body(self._model))

    async def hardware(self, request: Request) -> Response:
        return json_response([{"sku": self._device, "name": self._device}])

    async def collections(self, request: Request) -> Response:
        return json_response(page_body([]))

    async def secret(self, request: Request) -> Response:
        """What signs the webhooks of this caller's predictions."""
        key = await asyncio.to_thread(self._kept.secrets.webhook, caller_of(request).id)
        return json_response({"key": key})

    def _check(self, request: Request) -> None:
        self._model.check(request.path_params["owner"], request.path_params["name"], others=self._model.names)

    def _body(self, request: Request) -> dict[str, Any]:
        return model_body(self._model, base_url(request, self._public_url), self._schema)

    def _deployment(self) -> dict[str, Any]:
        return deployment_body(self._model, self._device)

    @property
    def _device(self) -> str:
        return self._serving.health().device or "cpu"
