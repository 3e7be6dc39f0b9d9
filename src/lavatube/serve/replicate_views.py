"""Predictions, models and files in Replicate's words. Pure: values in, values out.

Source: the stock clients' own types, replicate 1.0.7 and 2.0.0b4; a null where those want a text breaks them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from lavatube.predictions.events import Completed, Event, Output, Status
from lavatube.predictions.files import StoredFile
from lavatube.predictions.prediction import Prediction
from lavatube.serve.cog_views import COG_VERSION, time_text
from lavatube.serve.served_model import ServedModel
from lavatube.serve.sse import text_frame

# What splits a line for some clients; SSE itself knows \r and \n only.
_LINE_ENDS: Final = re.compile("\r\n|[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_LOOKS_LIKE_A_FILE: Final = ("https:", "data:")


def prediction_body(prediction: Prediction, base: str, stream_url: str, *, as_starting: bool = False) -> dict[str, Any]:
    """The prediction now. `as_starting`: as if nothing had come yet, which is what makes a client poll on."""
    is_bare = as_starting and not prediction.status.is_terminal
    details = prediction.details
    outputs = prediction.log.outputs
    has_output = not is_bare and (bool(outputs) or prediction.status is Status.SUCCEEDED)
    url = f"{base}/v1/predictions/{prediction.id}"
    body: dict[str, Any] = {
        "id": prediction.id,
        "model": details["model"],
        "version": details["version"],
        "input": details["input"],
        "output": outputs if has_output else None,
        "logs": "",
        "error": None if prediction.error is None else prediction.error.sentence,
        "status": Status.STARTING if is_bare else prediction.status,
        "source": "api",
        "data_removed": False,
        "created_at": time_text(prediction.created_at),
        "started_at": None if is_bare else time_text(prediction.started_at),
        "completed_at": time_text(prediction.completed_at),
        "metrics": {} if is_bare else prediction.metrics,
        "urls": {"get": url, "cancel": f"{url}/cancel", "stream": stream_url, "web": url},
    }
    optional = ("deployment", "deadline")
    return body | {name: details[name] for name in optional if name in details}


def model_body(model: ServedModel, base: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Replicate's model and OpenAI's at once: both ask for it at the same path, and no key has two meanings."""
    return openai_model_body(model) | {
        "url": f"{base}/v1/models/{model.full_name}",
        "owner": model.owner,
        "name": model.name,
        "description": "",
        "visibility": "private",
        "run_count": 0,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version_body(model, schema),
    }


def openai_model_body(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.names[0],
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": model.owner,
    }


def version_body(model: ServedModel, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": model.version,
        "created_at": time_text(model.created_at),
        "cog_version": COG_VERSION,
        "openapi_schema": schema,
    }


def deployment_body(model: ServedModel, device: str) -> dict[str, Any]:
    release = {
        "number": 1,
        "model": model.full_name,
        "version": model.version,
        "created_at": time_text(model.created_at),
        "created_by": account_body(model),
        "configuration": {"hardware": device, "min_instances": 1, "max_instances": 1},
    }
    return {"owner": model.owner, "name": model.name, "current_release": release}


def account_body(model: ServedModel) -> dict[str, Any]:
    return {"type": "organization", "username": model.owner, "name": model.owner, "github_url": None}


def page_body(results: Sequence[object], next_url: str | None = None) -> dict[str, Any]:
    return {"previous": None, "next": next_url, "results": list(results)}


def event_frames(prediction: Prediction, event: Event, part: int = 0) -> list[bytes]:
    """The frames of one event, from its `part`-th on; their ids are `<event>-<part>`."""
    match event:
        case Output(choice=0) if event.text:
            texts = ["\n".join(_LINE_ENDS.split(text)) for text in chunks(event.text)]
            frames = [("output", text) for text in texts]
        case Completed():
            frames = _ending(prediction)
        case _:
            frames = []
    return [
        text_frame(text, event=name, event_id=f"{event.id}-{index}")
        for index, (name, text) in enumerate(frames)
        if index >= part
    ]


def chunks(text: str) -> list[str]:
    """The text, cut where a stock client would take it for the URL of a file."""
    return [text] if is_plain(text) else [text[0], text[1:]]


def is_plain(text: str) -> bool:
    """No stock client would take it for the URL of a file."""
    return not text.startswith(_LOOKS_LIKE_A_FILE)


def _ending(prediction: Prediction) -> list[tuple[str, str]]:
    match prediction.status:
        case Status.FAILED:
            error = prediction.error
            return [("error", error.sentence if error else ""), ("done", '{"reason":"error"}')]
        case Status.CANCELED:
            return [("done", '{"reason":"canceled"}')]
        case _:
            return [("done", "{}")]


def file_body(file: StoredFile, base: str) -> dict[str, Any]:
    url = f"{base}/v1/files/{file.id}"
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size_bytes,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": file.metadata,
        "created_at": _moment(file.created_s),
        "expires_at": _moment(file.expires_s),
        "urls": {"get": url},
    }


def _moment(unix_s: float) -> str | None:
    return time_text(datetime.fromtimestamp(unix_s, UTC))
