"""A prediction and the server's state in Cog's words. Pure: values in, values out."""

from __future__ import annotations

import platform
from datetime import datetime
from typing import Final

from lavatube import __version__
from lavatube.errors import LavatubeError, RequestError
from lavatube.predictions.events import Completed, Event, Output, Started, Status
from lavatube.predictions.prediction import Prediction
from lavatube.serve.dialects import dump_text
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.sse import frame

COG_VERSION: Final = "0.23.1"  # whose contract this is

OUTPUT: Final = b'event: output\nid: %d\ndata: {"chunk":%b,"index":%d}\n\n'

HEALTH_STATES: Final = {
    Phase.PROVISIONING: "STARTING",
    Phase.LOADING: "STARTING",
    Phase.READY: "READY",
    Phase.RESTARTING: "UNHEALTHY",
    Phase.FAILED: "SETUP_FAILED",
    Phase.DRAINING: "UNHEALTHY",
}


def snapshot(prediction: Prediction) -> dict[str, object]:
    """The prediction as it is now, a failed one with the output that it has. Inputs are not kept."""
    body: dict[str, object] = {
        "id": prediction.id,
        "status": prediction.status,
        "output": prediction.log.outputs if prediction.has_output or _is_whole(prediction) else None,
        "logs": "",
        "metrics": prediction.metrics,
        "created_at": time_text(prediction.created_at),
        "started_at": time_text(prediction.started_at),
        "completed_at": time_text(prediction.completed_at),
    }
    if prediction.error is not None:
        body |= {"error": prediction.error.sentence, "code": prediction.error.code}
    return body


def event_frame(prediction: Prediction, event: Event) -> bytes | None:
    """None for what Cog has no word for: other answers than the first, to a prediction made through another API."""
    match event:
        case Started():
            return frame({"id": prediction.id, "status": "processing"}, event="start", event_id=event.id)
        case Output(choice=0):
            return OUTPUT % (event.id, dump_text(event.text), event.index)
        case Completed():
            return frame(snapshot(prediction), event="completed", event_id=event.id)
        case _:
            return None


def refusal(prediction: Prediction) -> LavatubeError | None:
    """The error that is a status code: the request's own, or a "not now". Other failures are a result, as in Cog."""
    error = prediction.error
    if error is None or prediction.has_output:
        return None
    return error if isinstance(error, RequestError) or error.status in (429, 503) else None


def health_body(view: HealthView, *, is_busy: bool) -> dict[str, object]:
    setup: dict[str, object] = {
        "started_at": time_text(view.started_at),
        "completed_at": time_text(view.ready_at),
        "status": _setup_status(view),
        "logs": "".join(f"{line}\n" for line in view.logs),
    }
    body: dict[str, object] = {
        "status": "BUSY" if view.is_ready and is_busy else HEALTH_STATES[view.phase],
        "setup": setup,
        "version": {"lavatube": __version__, "cog": COG_VERSION, "python": platform.python_version()},
    }
    return body | ({} if view.is_ready else {"reason": view.reason})


def _setup_status(view: HealthView) -> str:
    if view.ready_at is not None:
        return "succeeded"
    return "failed" if view.phase is Phase.FAILED else "starting"


def _is_whole(prediction: Prediction) -> bool:
    return prediction.status is Status.SUCCEEDED


def time_text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
