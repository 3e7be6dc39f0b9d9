"""The OpenAPI document of the Cog routes: Cog's shape, which its tools and UIs read, with every status that is sent."""

from __future__ import annotations

from typing import Any, Final

from lavatube import __version__
from lavatube.predictions.events import Status
from lavatube.predictions.webhook import HookEvent
from lavatube.serve.cog_inputs import ID_PATTERN, Inputs

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
TIME: Final[Schema] = {"type": "string", "format": "date-time", "nullable": True}
OBJECT: Final[Schema] = {"type": "object"}
EVENTS: Final[Schema] = {"text/event-stream": {}}  # OpenAPI 3.0 can't describe events

REFUSALS: Final = {
    "400": "Not JSON, or a malformed header.",
    "401": "The API key is missing or wrong.",
    "403": "It is addressed to another server's name, or comes from another site's page.",
    "408": "The body did not arrive in time.",
    "409": "The id was used for another request.",
    "413": "The body or the picture is too large.",
    "415": "The body is not JSON, or the picture is of a format that is not read.",
    "431": "The headers are too large.",
}
LATER: Final = {"429": "Too much is running; see Retry-After.", "503": "Not ready; see Retry-After."}
KEY_REFUSALS: Final = {status: REFUSALS[status] for status in ("401", "403", "431")}


def openapi_document(max_new_tokens: int) -> Schema:
    """OpenAPI 3.0.2."""
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": __version__},
        "paths": _paths(),
        "components": {"schemas": _schemas(max_new_tokens)},
    }


def _paths() -> Schema:
    path_id = {"name": "prediction_id", "in": "path", "required": True, "schema": {"title": "Prediction ID", **STRING}}
    one = "/predictions/{prediction_id}"
    prefer = {"name": "Prefer", "in": "header", "required": False, "schema": STRING}
    last_event = {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}}
    create = {"parameters": [prefer, last_event], "requestBody": _json_body("PredictionRequest")}
    created = _answers(_prediction_answers(), {**REFUSALS, **LATER}, with_422=True)
    missing = {**KEY_REFUSALS, "404": "There is no such prediction.", "503": LATER["503"]}
    return {
        "/": {"get": _operation("root__get", "Root", _answers({"200": _json(OBJECT)}, KEY_REFUSALS))},
        "/health-check": {
            "get": _operation(
                "healthcheck_health_check_get",
                "Healthcheck",
                _answers({"200": _json(OBJECT)}, {"431": REFUSALS["431"]}),
            )
        },
        "/predictions": {
            "post": _operation("predict_predictions_post", "Predict", created, **create, **{"x-cog-streaming": True})
        },
        one: {
            "put": _operation(
                "predict_idempotent_predictions__prediction_id__put",
                "Predict Idempotent",
                created,
                **create | {"parameters": [{**path_id, "schema": _id()}, prefer, last_event]},
                **{"x-cog-streaming": True},
            ),
            "get": _operation(
                "get_predictions__prediction_id__get",
                "Get Prediction",
                _answers({"200": _prediction("The prediction as it is now.")}, missing),
                parameters=[path_id],
            ),
        },
        f"{one}/stream": {
            "get": _operation(
                "stream_predictions__prediction_id__stream_get",
                "Stream Prediction",
                _answers(
                    {"200": {"description": "Its events, from the start or after Last-Event-ID.", "content": EVENTS}},
                    {**missing, "400": REFUSALS["400"]},
                ),
                parameters=[path_id, last_event],
            )
        },
        f"{one}/cancel": {
            "post": _operation(
                "cancel_predictions__prediction_id__cancel_post",
                "Cancel",
                _answers({"200": _json(OBJECT)}, {**missing, "404": "No such prediction is running."}),
                parameters=[path_id],
            )
        },
        "/shutdown": {
            "post": _operation(
                "start_shutdown_shutdown_post",
                "Start Shutdown",
                _answers({"200": _json(OBJECT)}, {**KEY_REFUSALS, "403": "Only this machine or a key may do that."}),
            )
        },
    }


def _operation(operation_id: str, summary: str, responses: Schema, **more: Any) -> Schema:
    return {"summary": summary, "operationId": operation_id, **more, "responses": responses}


def _answers(good: Schema, errors: dict[str, str], *, with_422: bool = False) -> Schema:
    answers = good | {status: _json(_ref("Error"), text) for status, text in errors.items()}
    if with_422:
        answers["422"] = _json(_ref("HTTPValidationError"), "Something about the inputs is wrong.")
    return dict(sorted(answers.items()))


def _prediction_answers() -> Schema:
    done = _prediction("The prediction has ended; or its events, where they were asked for.")
    done["content"] |= EVENTS
    return {"200": done, "202": _prediction("The prediction goes on.")}


def _prediction(text: str) -> Schema:
    return _json(_ref("PredictionResponse"), text)


def _json(schema: Schema, text: str = "Successful Response") -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _json_body(name: str) -> Schema:
    return {"content": {"application/json": {"schema": _ref(name)}}, "required": True}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _id() -> Schema:
    return {"type": "string", "pattern": ID_PATTERN}


def _schemas(max_new_tokens: int) -> Schema:
    return {
        "Input": _input(max_new_tokens),
        "Output": {
            "title": "Output",
            "type": "array",
            "items": STRING,
            "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate",
        },
        "Status": {"title": "Status", "type": "string", "enum": [str(status) for status in Status]},
        "PredictionRequest": {
            "title": "PredictionRequest",
            "type": "object",
            "required": ["input"],
            "properties": {
                "id": _id(),
                "input": _ref("Input"),
                "webhook": {"type": "string", "format": "uri", "nullable": True},
                "webhook_events_filter": {
                    "type": "array",
                    "items": {"type": "string", "enum": sorted(HookEvent)},
                    "maxItems": len(HookEvent),
                },
                "context": {"type": "object", "additionalProperties": STRING},
            },
            "additionalProperties": False,
        },
        "PredictionResponse": _prediction_response(),
        "HTTPValidationError": {
            "title": "HTTPValidationError",
            "type": "object",
            "properties": {"detail": {"type": "array", "items": _ref("ValidationError")}, "error": OBJECT},
        },
        "ValidationError": {
            "title": "ValidationError",
            "type": "object",
            "required": ["loc", "msg", "type"],
            "properties": {
                "loc": {"type": "array", "items": {"anyOf": [STRING, {"type": "integer"}]}},
                "msg": STRING,
                "type": STRING,
                "code": STRING,
            },
        },
        "Error": {
            "title": "Error",
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"anyOf": [OBJECT, STRING]}, "code": STRING},
        },
    }


def _input(max_new_tokens: int) -> Schema:
    """The inputs as validation knows them, with Cog's own keys, and no more tokens than the server gives."""
    schema = Inputs.model_json_schema()
    properties: Schema = {}
    for order, (name, found) in enumerate(schema["properties"].items()):
        field = dict(found)
        if "anyOf" in field:
            field |= {**field.pop("anyOf")[0], "nullable": True}
        properties[name] = {key: value for key, value in field.items() if (key, value) != ("default", None)}
        properties[name]["x-order"] = order
    properties["max_tokens"] |= {"maximum": max_new_tokens}
    properties["max_tokens"]["default"] = min(properties["max_tokens"]["default"], max_new_tokens)
    return {
        "title": "Input",
        "type": "object",
        "required": schema["required"],
        "properties": properties,
        "additionalProperties": False,
    }


def _prediction_response() -> Schema:
    return {
        "title": "PredictionResponse",
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": STRING,
            "status": _ref("Status"),
            "output": {"allOf": [_ref("Output")], "nullable": True},
            "error": STRING,
            "code": STRING,
            "logs": {**STRING, "default": ""},
            "metrics": {"type": "object", "additionalProperties": NUMBER},
            "created_at": TIME,
            "started_at": TIME,
            "completed_at": TIME,
        },
    }
