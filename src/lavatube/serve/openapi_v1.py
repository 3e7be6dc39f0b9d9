"""The OpenAPI document of what lies under /v1: OpenAI's routes and Replicate's, with every status that they send.

Bodies of requests are described by the models that check them, so the document can't say anything else than they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lavatube import __version__
from lavatube.predictions.events import Status
from lavatube.serve import openai_request, responses_request
from lavatube.serve.estimate import EstimateRequest
from lavatube.serve.not_served import NotServed
from lavatube.serve.openai_request import ChatRequest
from lavatube.serve.replicate_request import ReplicateRequest
from lavatube.serve.responses_query import ListQuery, RetrieveQuery
from lavatube.serve.responses_request import ResponseRequest
from lavatube.serve.served_model import ServedModel

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
EVENTS: Final[Schema] = {"text/event-stream": {}}  # OpenAPI can't describe events
STATUSES: Final = {
    "400": "Something about the request is wrong.",
    "401": "The API key is missing or wrong.",
    "403": "It is addressed to another server's name, or comes from another site's page.",
    "404": "There is no such thing here.",
    "408": "The body did not arrive in time.",
    "409": "It was cancelled, or can't be done as things are.",
    "413": "The body or a picture is too large.",
    "415": "The body is not of the type that is read here, or a picture is of a format that is not.",
    "422": "Something about the fields is wrong.",
    "429": "Too much is running; see Retry-After.",
    "431": "The headers are too large.",
    "500": "The server is at fault.",
    "503": "Not ready; see Retry-After.",
    "504": "It took longer than the server allows.",
}
ALWAYS_POSSIBLE: Final = ("401", "403", "431")
READING: Final = (*ALWAYS_POSSIBLE, "404", "503")
ASKING: Final = ("400", *READING)
BODY: Final = (*ALWAYS_POSSIBLE, "400", "408", "413", "415")
LATER: Final = ("429", "503")
FAILED: Final = ("409", "500", "504")
OPENAI: Final = ("application/json", "OpenAIError")
REPLICATE: Final = ("application/problem+json", "Problem")
SHARED: Final = ("application/json", "SharedError")
"""Of each API: the type and the schema of its errors."""

BODIES: Final[tuple[type[BaseModel], ...]] = (ChatRequest, ResponseRequest, EstimateRequest, ReplicateRequest)
# Of what is answered: the fields that are always there.
ALWAYS: Final[dict[str, tuple[str, ...]]] = {
    "ChatCompletion": ("id", "object", "created", "model", "choices", "usage"),
    "Deleted": ("id", "object", "deleted"),
    "Estimate": ("object", "model", "prompt_tokens", "image_tokens", "images", "context_tokens"),
    "ItemList": ("object", "data", "first_id", "last_id", "has_more"),
    "Response": ("id", "object", "created_at", "status", "model", "output", "tools", "tool_choice"),
    "Account": ("type", "username", "name"),
    "Deployment": ("owner", "name", "current_release"),
    "File": ("id", "name", "content_type", "size", "checksums", "created_at", "expires_at", "urls"),
    "Model": ("id", "object", "created", "owned_by", "owner", "name", "url", "visibility", "latest_version"),
    "Page": ("previous", "next", "results"),
    "Prediction": ("id", "model", "version", "input", "output", "status", "error", "logs", "created_at", "urls"),
    "Secret": ("key",),
    "Version": ("id", "created_at", "cog_version", "openapi_schema"),
    "Problem": ("title", "detail", "status", "code"),
    "SharedError": ("title", "detail", "status", "code", "error"),
}


def v1_document(model: ServedModel, *, with_replicate: bool) -> Schema:
    """OpenAPI 3.1; `with_replicate`: as far as those routes are there."""
    paths = _openai() | (_replicate(model) if with_replicate else {})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lavatube", "version": __version__},
        "paths": paths,
        "components": {"schemas": _bodies(model) | _answers()},
    }


def _openai() -> Schema:
    one, creating = "/v1/responses/{response_id}", (*BODY, "404", *LATER, *FAILED)
    response_id = [_parameter("response_id", "path", STRING)]
    response = _json("Response")
    return {
        "/v1/chat/completions": {
            "post": _operation("createChatCompletion", _json("ChatCompletion") | EVENTS, OPENAI, creating, ChatRequest)
        },
        "/v1/responses": {"post": _operation("createResponse", response | EVENTS, OPENAI, creating, ResponseRequest)},
        one: {
            "get": _operation(
                "getResponse",
                response | EVENTS,
                OPENAI,
                ASKING,
                parameters=[*response_id, *_query(RetrieveQuery)],
            ),
            "delete": _operation("deleteResponse", _json("Deleted"), OPENAI, READING, parameters=response_id),
        },
        f"{one}/cancel": {"post": _operation("cancelResponse", response, OPENAI, ASKING, parameters=response_id)},
        f"{one}/input_items": {
            "get": _operation(
                "listInputItems",
                _json("ItemList"),
                OPENAI,
                ASKING,
                parameters=[*response_id, *_query(ListQuery)],
            )
        },
        "/v1/estimate": {
            "post": _operation("estimate", _json("Estimate"), OPENAI, (*BODY, "404", *LATER), EstimateRequest)
        },
    }


def _replicate(model: ServedModel) -> Schema:
    owner, name = (
        _parameter(key, "path", {"enum": [value]}) for key, value in (("owner", model.owner), ("name", model.name))
    )
    one, its_version = "/v1/models/{owner}/{name}", _parameter("version_id", "path", {"enum": [model.version]})
    deployment, prediction = "/v1/deployments/{owner}/{name}", "/v1/predictions/{prediction_id}"
    headers = [_parameter(key, "header", STRING, is_required=False) for key in ("Prefer", "Cancel-After")]
    creating = (*BODY, "404", "422", *LATER)
    of_prediction = [_parameter("prediction_id", "path", STRING)]
    of_file = [_parameter("file_id", "path", STRING)]

    def create(operation_id: str, *more: Schema) -> Schema:
        return _operation(
            operation_id,
            _json("Prediction"),
            REPLICATE,
            creating,
            ReplicateRequest,
            parameters=[*more, *headers],
            status="201",
        )

    def get(
        operation_id: str, answer: str, *parameters: Schema, errors: tuple[str, str] = REPLICATE, **more: Any
    ) -> Schema:
        return _operation(operation_id, _json(answer), errors, READING, parameters=list(parameters), **more)

    return {
        "/v1/predictions": {
            "post": create("predictions.create"),
            "get": _operation(
                "predictions.list",
                _json("Page"),
                REPLICATE,
                (*ALWAYS_POSSIBLE, "422", "503"),
                parameters=[_parameter("cursor", "query", STRING, is_required=False)],
            ),
        },
        prediction: {"get": get("predictions.get", "Prediction", *of_prediction)},
        f"{prediction}/cancel": {
            "post": _operation("predictions.cancel", _json("Prediction"), REPLICATE, READING, parameters=of_prediction)
        },
        "/v1/streams/{stream}": {
            "get": _operation(
                "predictions.stream",
                EVENTS,
                REPLICATE,
                ASKING,
                parameters=[_parameter("stream", "path", STRING)],
            )
        },
        "/v1/models": {"get": get("models.list", "Page", errors=SHARED)},
        one: {"get": get("models.get", "Model", owner, name, errors=SHARED)},
        f"{one}/predictions": {"post": create("models.predictions.create", owner, name)},
        f"{one}/versions": {"get": get("models.versions.list", "Page", owner, name)},
        f"{one}/versions/{{version_id}}": {"get": get("models.versions.get", "Version", owner, name, its_version)},
        "/v1/deployments": {"get": get("deployments.list", "Page")},
        deployment: {"get": get("deployments.get", "Deployment", owner, name)},
        f"{deployment}/predictions": {"post": create("deployments.predictions.create", owner, name)},
        "/v1/files": {
            "post": _operation("files.create", _json("File"), SHARED, (*BODY, "422", *LATER), status="201") | _upload(),
            "get": get("files.list", "Page", errors=SHARED),
        },
        "/v1/files/{file_id}": {
            "get": get("files.get", "File", *of_file, errors=SHARED),
            "delete": _operation("files.delete", None, SHARED, READING, parameters=of_file, status="204"),
        },
        "/v1/files/{file_id}/download": {
            "get": _operation("files.download", {"application/octet-stream": {}}, SHARED, READING, parameters=of_file)
        },
        "/v1/account": {"get": get("account.get", "Account")},
        "/v1/hardware": {
            "get": _operation("hardware.list", {"application/json": {"schema": {"type": "array"}}}, REPLICATE, READING)
        },
        "/v1/collections": {"get": get("collections.list", "Page")},
        "/v1/webhooks/default/secret": {"get": get("webhooks.default.secret.get", "Secret")},
    }


def _operation(
    operation_id: str,
    content: Schema | None,
    errors: tuple[str, str],
    statuses: Iterable[str],
    body: type[BaseModel] | None = None,
    *,
    parameters: list[Schema] | None = None,
    status: str = "200",
) -> Schema:
    media_type, schema = errors
    refused = {media_type: {"schema": _ref(schema)}}
    responses: Schema = {status: {"description": "Done."} | ({} if content is None else {"content": content})}
    responses |= {one: {"description": STATUSES[one], "content": refused} for one in sorted(statuses)}
    operation: Schema = {"operationId": operation_id, "parameters": parameters or [], "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body.__name__)}
    return operation


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, place: str, schema: Schema, *, is_required: bool = True) -> Schema:
    return {"name": name, "in": place, "required": is_required, "schema": schema}


def _query(model: type[BaseModel]) -> list[Schema]:
    """A list comes as `name[]`, once for each value."""
    properties = model.model_json_schema()["properties"]
    return [
        _parameter(f"{name}[]" if field.get("type") == "array" else name, "query", field, is_required=False)
        for name, field in properties.items()
    ]


def _upload() -> Schema:
    properties = {"content": {**STRING, "contentMediaType": "application/octet-stream"}, "metadata": {"type": "object"}}
    form = {"type": "object", "required": ["content"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _bodies(model: ServedModel) -> Schema:
    """What may be sent, by the models that check it; and what those never see, as it is refused or dropped before."""
    _, found = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}"
    )
    schemas: Schema = found["$defs"]
    for name in ("ChatRequest", "ResponseRequest", "EstimateRequest"):
        schemas[name]["properties"]["model"] |= {"enum": [*model.names, *([None] if name == "EstimateRequest" else [])]}
    schemas["ChatRequest"]["properties"] |= _unserved(openai_request.NOT_SERVED, openai_request.WITHOUT_EFFECT)
    schemas["ResponseRequest"]["properties"] |= _unserved(
        responses_request.NOT_SERVED, responses_request.WITHOUT_EFFECT
    )
    return schemas


def _unserved(not_served: NotServed, without_effect: Iterable[str]) -> Schema:
    refused = {
        name: {"enum": [None, *neutral], "description": f"Not served: {why}."}
        for name, (neutral, why) in not_served.items()
    }
    return refused | {name: {"description": "Taken without effect."} for name in sorted(without_effect)}


def _answers() -> Schema:
    known: Mapping[str, Schema] = {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": STRING, "type": STRING, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL},
        },
        "id": STRING,
        "results": {"type": "array"},
        "next": TEXT_OR_NULL,
        "previous": TEXT_OR_NULL,
    }
    objects: dict[str, Schema] = {
        name: {
            "type": "object",
            "required": list(fields),
            "properties": {field: known[field] for field in fields if field in known},
        }
        for name, fields in (*ALWAYS.items(), ("OpenAIError", ("error",)))
    }
    objects["Prediction"]["properties"] |= {
        "status": {"enum": [str(status) for status in Status]},
        "error": TEXT_OR_NULL,
    }
    return objects
