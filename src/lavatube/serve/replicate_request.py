"""The body of a create on the Replicate routes, and what of it is kept to be shown again. Pure."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Final

from pydantic import field_validator

from lavatube.errors import InvalidRequest
from lavatube.serve.cog_inputs import HookFields, Inputs
from lavatube.serve.fields import Problem, invalid, misfit

MAX_SHOWN_CHARS: Final = 16_384
MAX_WAIT_S: Final = 60
LEAST_CANCEL_AFTER_S: Final = 5
MOST_CANCEL_AFTER_S: Final = 24 * 3600
_DURATION: Final = re.compile(r"(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?")

# Fields that the stock clients can send and that have no effect; docs/api.md says why.
WITHOUT_EFFECT: Final = ("stream",)


class ReplicateRequest(HookFields):
    input: Inputs
    version: str | None = None
    stream: bool | None = None
    webhook_completed: None = None

    @field_validator("webhook_completed", mode="before")
    @classmethod
    def _is_old(cls, value: object) -> object:
        if value is not None:
            raise misfit(
                "", "webhook_completed is no longer served.", 'Use webhook and webhook_events_filter: ["completed"].'
            )
        return value

    def required_version(self) -> str:
        """Raises: InvalidFields."""
        if self.version is None:
            raise invalid([Problem("version", "version is missing.", "It is required.", is_missing=True)])
        return self.version


def shown_input(inputs: Inputs) -> dict[str, Any]:
    """What was sent, as it is shown again: a picture by its URL or its digest, and of a long text the beginning."""
    shown = inputs.model_dump(exclude_unset=True)
    image = shown["image"]
    if image[:5].lower() == "data:":
        shown["image"] = f"{image.partition(';')[0][:64]};sha256,{sha256(image.encode()).hexdigest()}"
    return {name: _cut(value) for name, value in shown.items()}


def parse_duration(text: str) -> int:
    """Seconds in `90s`, `5m`, `1h30m` or `90`. Raises: InvalidRequest."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found and text.strip() else (0, 0, 0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not LEAST_CANCEL_AFTER_S <= total_s <= MOST_CANCEL_AFTER_S:
        raise InvalidRequest(
            "Cancel-After is not a duration from 5 seconds to 24 hours.",
            param="cancel-after",
            remedy="Write it as 90s, 5m or 1h30m.",
        )
    return total_s


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_SHOWN_CHARS:
        return value[:MAX_SHOWN_CHARS] + "…"
    return value
