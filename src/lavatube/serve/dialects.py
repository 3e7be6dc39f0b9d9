"""One error → status, headers and body, in the words of the API that was called. The one table of them.

The API is told by the path: of `/v1/…` some are Replicate's, some are Replicate's and OpenAI's, the rest is OpenAI's;
everything else is Cog's. Cog documents `{"detail": […]}` for what is wrong with a request and `{"error": "…", "status":
"failed"}` for what is wrong with the server; both carry more here. Replicate's are problems, as RFC 9457 has them.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from lavatube.errors import (
    MAX_RETRY_AFTER_S,
    Conflict,
    Draining,
    ImageRejected,
    LavatubeError,
    Overloaded,
    PromptTooLong,
    RequestError,
    RequestTimeout,
    Unauthorized,
    UnsupportedImage,
)
from lavatube.serve.fields import InvalidFields, Problem

V1_PREFIX: Final = "/v1/"
RESPONSES_PATH: Final = "/v1/responses"
REPLICATE_ROOTS: Final = frozenset(
    ("predictions", "deployments", "webhooks", "streams", "account", "hardware", "collections", "trainings")
)
SHARED_ROOTS: Final = frozenset(("models", "files"))
PROBLEM_TYPE: Final = "application/problem+json"

# Characters that some clients take for line ends; JSON may hold them raw, a line-based reader would break on them.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def dump(value: object) -> bytes:
    """Compact JSON, in UTF-8, on one line whatever a reader thinks a line is."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode()


def dump_text(text: str) -> bytes:
    """The same of a text, many times as fast where it is plain."""
    return msgspec.json.encode(text) if text.isascii() else dump(text)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dump(value), status, headers, media_type="application/json")


class Dialect(Enum):
    """Whose words an answer is in."""

    COG = auto()
    OPENAI = auto()
    REPLICATE = auto()
    SHARED = auto()


def dialect_of(path: str) -> Dialect:
    """The API whose path this is, or begins like."""
    if not f"{path}/".startswith(V1_PREFIX):
        return Dialect.COG
    names = path.removeprefix(V1_PREFIX).split("/")
    if names[0] in REPLICATE_ROOTS or (names[0] == "models" and len(names) > 3):
        return Dialect.REPLICATE
    return Dialect.SHARED if names[0] in SHARED_ROOTS else Dialect.OPENAI


def error_response(error: LavatubeError, path: str, request_id: str) -> Response:
    """What a client of the API at `path` expects to see of this error."""
    headers = _headers(error)
    match dialect_of(path):
        case Dialect.COG:
            return json_response(cog_body(error, request_id), error.status, headers)
        case Dialect.OPENAI:
            body = openai_body(error, "input" if path.startswith(RESPONSES_PATH) else "messages")
            return json_response(body, openai_status(error), headers | _openai_headers(error))
        case Dialect.SHARED:
            body = problem_body(error, request_id) | openai_body(error)
            return json_response(body, error.status, headers | _openai_headers(error))
        case Dialect.REPLICATE:
            return Response(dump(problem_body(error, request_id)), error.status, headers, PROBLEM_TYPE)


def openai_status(error: LavatubeError) -> int:
    """OpenAI says 400 to everything that is wrong with the meaning of a request."""
    return 400 if error.status == 422 or isinstance(error, UnsupportedImage) else error.status


def openai_body(error: LavatubeError, text_param: str = "messages") -> dict[str, object]:
    return {
        "error": {
            "message": error.sentence,
            "type": _openai_type(error),
            "param": param_of(error, text_param),
            "code": error.code,
        }
    }


def problem_body(error: LavatubeError, request_id: str) -> dict[str, object]:
    """With what Replicate adds: the fields that are wrong."""
    body: dict[str, object] = {
        "title": HTTPStatus(error.status).phrase,
        "detail": error.sentence,
        "status": error.status,
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, RequestError) and (param := param_of(error, "input.prompt")) is not None:
        whole = Problem(param, error.message, error.remedy)
        problems = error.problems if isinstance(error, InvalidFields) else (whole,)
        body["invalid_fields"] = [_invalid_field(problem) for problem in problems]
    return body


def cog_body(error: LavatubeError, request_id: str) -> dict[str, object]:
    if not isinstance(error, RequestError):
        return {"error": error.sentence, "code": error.code, "status": "failed", "request_id": request_id}
    param = param_of(error, "input.prompt")
    body: dict[str, object] = {
        "error": {
            "code": error.code,
            "message": error.message,
            "param": param,
            "remedy": error.remedy,
            "retryable": error.is_retryable,
            "request_id": request_id,
        }
    }
    if error.status == 422 or isinstance(error, ImageRejected):
        whole = Problem(param or "", error.message, error.remedy)
        problems = error.problems if isinstance(error, InvalidFields) else (whole,)
        body["detail"] = [_cog_detail(error, problem) for problem in problems]
    return body


def param_of(error: LavatubeError, text_param: str) -> str | None:
    """The field at fault; who counts the prompt's tokens does not know what the API calls the prompt."""
    return text_param if error.param is None and isinstance(error, PromptTooLong) else error.param


def _invalid_field(problem: Problem) -> dict[str, str]:
    kind = "required" if problem.is_missing else "invalid"
    return {"type": kind, "field": problem.param, "description": f"{problem.message} {problem.remedy}".strip()}


def _cog_detail(error: RequestError, problem: Problem) -> dict[str, object]:
    location = [int(part) if part.isdigit() else part for part in problem.param.split(".") if part]
    return {
        "loc": ["body", *location],
        "msg": "Field required" if problem.is_missing else f"{problem.message} {problem.remedy}".strip(),
        "type": "value_error.missing" if problem.is_missing else "value_error",
        "code": error.code,
    }


def _openai_type(error: LavatubeError) -> str:
    match error:
        case Unauthorized():
            return "authentication_error"
        case Overloaded():
            return "rate_limit_error"
        case RequestError():
            return "invalid_request_error"
        case _:
            return "server_error"


def _headers(error: LavatubeError) -> dict[str, str]:
    headers = {}
    if error.status in (429, 503):
        headers["Retry-After"] = str(min(error.retry_after_s or 1, MAX_RETRY_AFTER_S))
    if isinstance(error, Draining):
        headers["Connection"] = "close"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _openai_headers(error: LavatubeError) -> dict[str, str]:
    """Stock clients retry by status; where that would be wrong or right is told."""
    if isinstance(error, Conflict | RequestTimeout) or error.status == 429 or error.status >= 500:
        return {"X-Should-Retry": "true" if error.is_retryable else "false"}
    return {}
