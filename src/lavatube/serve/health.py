"""How the server is, as a value and over HTTP: `/livez`, `/startupz`, `/readyz` and the names others give it.

Live is not ready: a server that downloads, loads or restarts its engine is alive, and says when to come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import MAX_RETRY_AFTER_S, Draining, LavatubeError, NotReady, ServiceError, from_code
from lavatube.serve.dialects import json_response

READINESS_PATHS: Final = ("/readyz", "/health", "/healthz", "/ping")
PROBE_PATHS: Final = frozenset({"/livez", "/startupz", "/health-check", *READINESS_PATHS})


class Phase(StrEnum):
    """Where the server is on its way; the first two are the pattern's phases 1 and 2."""

    PROVISIONING = "provisioning"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    DRAINING = "draining"


_REASONS: Final = {
    Phase.PROVISIONING: "The weights are being fetched.",
    Phase.LOADING: "The model is being loaded.",
    Phase.RESTARTING: "The engine ended and is being started again.",
    Phase.FAILED: "The server could not start.",
    Phase.DRAINING: "The server is shutting down.",
}


@dataclass(frozen=True, slots=True)
class HealthView:
    """The state of the server at one moment.

    `step` is what provisioning is at, while it is; `logs` are the lines of the set-up so far.
    """

    phase: Phase
    model: str
    started_at: datetime
    elapsed_s: float
    ready_at: datetime | None = None
    device: str = ""
    step: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: float = 0.0
    failure: LavatubeError | None = None
    logs: tuple[str, ...] = ()

    def shown_to(self, request: Request) -> HealthView:
        """Whoever has not shown the key that there is gets no details: they may hold paths and addresses."""
        if not getattr(request.state, "is_stranger", False):
            return self
        failure = self.failure and from_code(self.failure.code, "The server's log says why.")
        return replace(self, failure=failure, logs=())

    @property
    def is_ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def is_starting(self) -> bool:
        return self.phase in (Phase.PROVISIONING, Phase.LOADING)

    @property
    def eta_s(self) -> float | None:
        """Until the bytes of this phase are there; None when it can't be told."""
        if not self.is_starting or self.rate_bytes_s <= 0 or not self.total_bytes:
            return None
        return max(self.total_bytes - self.done_bytes, 0) / self.rate_bytes_s

    @property
    def reason(self) -> str:
        """Why it is not ready; empty when it is."""
        reason = _REASONS.get(self.phase, "")
        return f"{reason} {self.failure.sentence}" if self.failure is not None and not self.is_ready else reason

    @property
    def retry_after_s(self) -> int:
        if self.phase is Phase.FAILED:
            return MAX_RETRY_AFTER_S
        return max(2, min(MAX_RETRY_AFTER_S, math.ceil(self.eta_s or 0)))

    def refusal(self) -> ServiceError:
        """The error for a prediction that can't be taken now."""
        kind = Draining if self.phase is Phase.DRAINING else NotReady
        after_s = self.retry_after_s
        remedy = "" if self.phase is Phase.FAILED else f"Try again in {after_s} s."
        return kind(self.reason, remedy=remedy, retry_after_s=after_s)


def health_routes(view: Callable[[], HealthView]) -> list[Route]:
    """The probes; none of them needs a key, a model or an engine."""

    async def livez(request: Request) -> Response:
        return json_response({"status": "alive", "phase": view().phase})

    async def readyz(request: Request) -> Response:
        now = view().shown_to(request)
        if now.is_ready:
            return json_response({"status": "ready", "model": now.model, "device": now.device})
        body = {"status": "not ready", "phase": now.phase, "reason": now.reason, "code": _code(now)}
        return json_response(body, 503, {"Retry-After": str(now.retry_after_s)})

    async def startupz(request: Request) -> Response:
        now = view().shown_to(request)
        has_started = not now.is_starting and now.phase is not Phase.FAILED
        headers = None if has_started else {"Retry-After": str(now.retry_after_s)}
        return json_response(_startup(now), 200 if has_started else 503, headers)

    return [
        Route("/livez", livez),
        Route("/startupz", startupz),
        *(Route(path, readyz) for path in READINESS_PATHS),
    ]


def _code(now: HealthView) -> str:
    return now.failure.code if now.failure is not None else now.refusal().code


def _startup(now: HealthView) -> dict[str, object]:
    return {
        "phase": now.phase,
        "step": now.step,
        "model": now.model,
        "device": now.device,
        "done_bytes": now.done_bytes,
        "total_bytes": now.total_bytes,
        "rate_bytes_s": round(now.rate_bytes_s),
        "eta_s": None if now.eta_s is None else round(now.eta_s, 1),
        "elapsed_s": round(now.elapsed_s, 1),
        "started_at": now.started_at.isoformat(),
        "ready_at": now.ready_at.isoformat() if now.ready_at else None,
        "failure": None
        if now.failure is None
        else {"code": now.failure.code, "message": now.failure.message, "remedy": now.failure.remedy},
    }
