"""Alive from the first moment; ready when it is; and honest in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lavatube.errors import InsufficientMemory, SourceUnavailable
from lavatube.serve.cog_views import health_body
from lavatube.serve.health import READINESS_PATHS, HealthView, Phase
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def view(phase: Phase, **changes: object) -> HealthView:
    return replace(HealthView(phase, "tiny", NOW, 3.0), **changes)


@pytest.mark.parametrize(
    ("phase", "state", "setup"),
    [
        (Phase.PROVISIONING, "STARTING", "starting"),
        (Phase.LOADING, "STARTING", "starting"),
        (Phase.READY, "READY", "succeeded"),
        (Phase.RESTARTING, "UNHEALTHY", "succeeded"),
        (Phase.FAILED, "SETUP_FAILED", "failed"),
    ],
)
def test_cogs_states(phase: Phase, state: str, setup: str) -> None:
    ready_at = NOW if setup == "succeeded" else None
    body = health_body(view(phase, ready_at=ready_at, logs=("one", "two")), is_busy=False)
    assert body["status"] == state
    assert body["setup"] == {
        "started_at": "2026-01-02T00:00:00.000Z",
        "completed_at": "2026-01-02T00:00:00.000Z" if ready_at else None,
        "status": setup,
        "logs": "one\ntwo\n",
    }


def test_the_time_left_is_told_and_bounded() -> None:
    loading = view(Phase.PROVISIONING, done_bytes=40, total_bytes=100, rate_bytes_s=2.0)
    assert loading.eta_s == 30.0
    assert loading.retry_after_s == 30
    assert replace(loading, rate_bytes_s=0.001).retry_after_s == 120
    assert view(Phase.PROVISIONING).eta_s is None


def test_before_there_is_a_model(tmp_path: Path) -> None:
    with LiveServer(tmp_path, is_ready=False) as server, server.client() as client:
        server.view = replace(server.view, done_bytes=5_000, total_bytes=10_000, rate_bytes_s=1_000.0)
        assert client.get("/livez").status_code == 200
        for path in READINESS_PATHS:
            probe = client.get(path)
            assert probe.status_code == 503
            assert probe.headers["retry-after"] == "5"
            assert probe.json()["reason"] == "The weights are being fetched."
        startup = client.get("/startupz")
        assert startup.status_code == 503
        assert startup.json()["phase"] == "provisioning"
        assert (startup.json()["done_bytes"], startup.json()["total_bytes"]) == (5_000, 10_000)
        assert startup.json()["eta_s"] == 5.0
        assert client.get("/health-check").json()["status"] == "STARTING"
        assert client.get("/openapi.json").status_code == 200
        good = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 5}}
        for headers in ({}, {"accept": "text/event-stream"}):
            refused = client.post("/predictions", json=good, headers=headers)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert refused.json()["code"] == "not_ready"
        assert client.post("/predictions", json={"input": {}}).status_code == 422
        assert client.get("/predictions/x").status_code == 503
        server.make_ready()
        assert client.get("/readyz").status_code == 200
        assert client.get("/startupz").status_code == 200
        assert client.post("/predictions", json=good).json()["output"] == list("hello")


def test_a_failed_set_up_says_why(tmp_path: Path) -> None:
    with LiveServer(tmp_path, is_ready=False) as server, server.client() as client:
        failure = InsufficientMemory("The model needs 15 GB; the device has 8.", remedy="Choose --dtype bfloat16.")
        server.view = replace(server.view, phase=Phase.FAILED, failure=failure)
        assert client.get("/livez").status_code == 200
        probe = client.get("/readyz")
        assert probe.status_code == 503
        assert probe.json()["code"] == "insufficient_memory"
        assert "Choose --dtype bfloat16." in probe.json()["reason"]
        assert client.get("/health-check").json()["status"] == "SETUP_FAILED"


def test_without_the_key_a_failure_has_no_details(tmp_path: Path) -> None:
    with LiveServer(tmp_path, api_key="k", is_ready=False) as server, server.client() as client:
        failure = SourceUnavailable("https://u:p@host/x is not there.", remedy="Look into /srv/models.")
        server.view = replace(server.view, phase=Phase.FAILED, failure=failure, logs=("from /srv/models",))
        for path in (*READINESS_PATHS, "/startupz", "/health-check"):
            stranger = client.get(path).text
            assert "host" not in stranger
            assert "/srv" not in stranger
            assert "SETUP_FAILED" in stranger or "source_unavailable" in stranger
            owner = client.get(path, headers={"authorization": "Bearer k"}).text
            assert "https://u:p@host/x" in owner


def test_draining_sends_clients_away(server: LiveServer) -> None:
    server.view = replace(server.view, phase=Phase.DRAINING)
    with server.client() as client:
        refused = client.post("/predictions", json={"input": {"image": PNG, "prompt": "x"}})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert refused.headers["retry-after"]
        assert client.get("/livez").status_code == 200
