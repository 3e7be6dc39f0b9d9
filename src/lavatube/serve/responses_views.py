"""A prediction as a response of OpenAI's, at any moment of its life. Pure: values in, values out.

Source: openai-python 3.57, types/responses/response.py, response_usage.py and response_error.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lavatube.errors import Conflict, ImageRejected, LavatubeError, Overloaded, RequestError
from lavatube.predictions.events import Output, Status, TokenLogprob, Usage
from lavatube.predictions.prediction import Prediction
from lavatube.serve.dialects import param_of
from lavatube.serve.openai_logprobs import with_top

PREFIX: Final = "resp_"
ITEM_PREFIX: Final = "msg_"

# Ours → those that the clients' types list.
_CODES: Final = {
    "image_bad_dimensions": "image_parse_error",
    "image_fetch_failed": "failed_to_download_image",
    "image_too_large": "image_too_large",
    "image_url_forbidden": "invalid_image_url",
    "invalid_image_url": "invalid_image_url",
    "unsupported_image_format": "unsupported_image_media_type",
}


@dataclass(frozen=True, slots=True)
class ResponseView:
    """One prediction that was made as a response; its details say what was asked."""

    prediction: Prediction
    model: str

    @property
    def id(self) -> str:
        return PREFIX + self.prediction.id

    @property
    def item_id(self) -> str:
        return ITEM_PREFIX + self.prediction.id

    @property
    def is_background(self) -> bool:
        return bool(self._echo["background"])

    @property
    def error(self) -> LavatubeError | None:
        """Why there is no answer."""
        if self.prediction.status is Status.CANCELED:
            return Conflict("The response was cancelled.", remedy="Send it again, if it is still wanted.")
        return self.prediction.error

    def now(self) -> dict[str, object]:
        """The response as it is, with what is written so far."""
        pieces = self.prediction.log.pieces(0)
        match self.prediction.status:
            case Status.STARTING:
                return self.at("queued" if self.is_background else "in_progress")
            case Status.PROCESSING:
                output = [self.item(pieces, "in_progress")] if pieces else []
                return self.at("in_progress", output)
            case Status.SUCCEEDED:
                return self.ended(pieces)
            case Status.CANCELED:
                return self.at("cancelled", [self.item(pieces, "incomplete")] if pieces else [])
            case Status.FAILED:
                return self.failed(pieces)

    def ended(self, pieces: Sequence[Output]) -> dict[str, object]:
        """Whole, or as far as its limit of tokens went."""
        status = self.end_status
        details = {} if status == "completed" else {"incomplete_details": {"reason": "max_output_tokens"}}
        usage = {"usage": _usage(self.prediction.usage)}
        return self.at(status, [self.item(pieces, status)]) | details | usage

    def failed(self, pieces: Sequence[Output]) -> dict[str, object]:
        assert self.prediction.error is not None
        output = [self.item(pieces, "incomplete")] if pieces else []
        return self.at("failed", output) | {"error": _error(self.prediction.error)}

    @property
    def end_status(self) -> str:
        return "completed" if self.prediction.finish_reason == "stop" else "incomplete"

    def at(self, status: str, output: Sequence[object] = ()) -> dict[str, object]:
        """The response at a moment that `status` names."""
        is_whole = status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": _seconds(self.prediction.created_at),
            "completed_at": _seconds(self.prediction.completed_at) if is_whole else None,
            "status": status,
            "model": self.model,
            "output": list(output),
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
        } | self._echo

    def item(self, pieces: Sequence[Output], status: str) -> dict[str, object]:
        return self.open_item(status, [self.part(pieces)])

    def open_item(self, status: str = "in_progress", content: Sequence[object] = ()) -> dict[str, object]:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": list(content),
        }

    def part(self, pieces: Sequence[Output]) -> dict[str, object]:
        logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
        return {
            "type": "output_text",
            "text": "".join(piece.text for piece in pieces),
            "annotations": [],
            "logprobs": self.logprobs(logprobs),
        }

    def logprobs(self, logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
        return [with_top(logprob) for logprob in logprobs]

    @property
    def _echo(self) -> dict[str, Any]:
        echo: dict[str, Any] = self.prediction.details["response"]
        return echo


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": usage.image_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _error(error: LavatubeError) -> dict[str, object]:
    return {"code": _code(error), "message": error.sentence, "param": param_of(error, "input")}


def _code(error: LavatubeError) -> str:
    match error:
        case ImageRejected():
            return _CODES.get(error.code, "invalid_image")
        case Overloaded():
            return "rate_limit_exceeded"
        case RequestError():
            return "invalid_prompt"
        case _:
            return "server_error"
