"""The Cog API through a real server, with a real HTTP client."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from lavatube.predictions.limits import ServiceLimits
from lavatube.serve.health import Phase
from tests.predictions.fakes import CRASH_LATER, FAIL, PASSING_FAILURE
from tests.serve.cog import SSE, body, chunks, stream
from tests.serve.live import LiveServer
from tests.waiting import waiting_client


def test_sync_answers_when_it_is_done(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body())
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "succeeded"
    assert answer["output"] == list("hello hello ")
    assert answer["logs"] == ""
    assert answer["metrics"]["predict_time"] >= 0
    assert answer["created_at"].endswith("Z")
    assert response.headers["x-request-id"].startswith("req_")


def test_async_is_accepted_and_can_be_read(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body(), headers={"prefer": "respond-async"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    prediction_id = response.json()["id"]
    LiveServer.until(lambda: shared_client.get(f"/predictions/{prediction_id}").json()["status"] == "succeeded")
    seen = stream(shared_client, "GET", f"/predictions/{prediction_id}/stream")
    assert [(name, event_id) for name, event_id, _ in seen] == [("start", 1), ("output", 13), ("completed", 14)]
    for last_id in range(1, 14):
        headers = {"last-event-id": str(last_id)}
        resumed = stream(shared_client, "GET", f"/predictions/{prediction_id}/stream", headers=headers)
        assert chunks(resumed) == "hello hello "[last_id - 1 :]
        assert resumed[-1] == seen[-1]
    assert (
        stream(shared_client, "GET", f"/predictions/{prediction_id}/stream", headers={"last-event-id": "14"})
        == seen[-1:]
    )


@pytest.mark.parametrize("prefer", ["wait=1", "respond-async, wait=1"])
def test_a_wait_is_a_limit_and_the_prediction_goes_on(server: LiveServer, client: httpx.Client, prefer: str) -> None:
    server.engine.token_s = 0.5
    started = time.monotonic()
    response = client.post("/predictions", json=body(max_tokens=8), headers={"prefer": prefer})
    assert time.monotonic() - started > 0.9
    assert response.status_code == 202
    assert response.json()["status"] == "processing"
    path = f"/predictions/{response.json()['id']}"
    LiveServer.until(lambda: client.get(path).json()["status"] == "succeeded")
    server.engine.token_s = 0
    done = client.post("/predictions", json=body(), headers={"prefer": prefer})
    assert (done.status_code, done.json()["status"]) == (200, "succeeded")


def test_what_was_not_waited_for_outlives_its_first_reader(server: LiveServer, client: httpx.Client) -> None:
    for headers in ({"prefer": "wait=0"}, {"prefer": "respond-async"}):
        path = f"/predictions/{client.post('/predictions', json=body('x' * 200), headers=headers).json()['id']}"
        with client.stream("GET", f"{path}/stream"):
            pass
        LiveServer.until(lambda path=path: client.get(path).json()["status"] == "succeeded")


def test_a_repeated_id_is_the_same_prediction(server: LiveServer, client: httpx.Client) -> None:
    first = client.put("/predictions/mine", json=body())
    again = client.put("/predictions/mine", json=body())
    assert first.json() == again.json()
    assert server.preparer.num_prepared == 1
    other = client.put("/predictions/mine", json=body("something else"))
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "conflict"
    assert chunks(stream(client, "PUT", "/predictions/mine", json=body(), headers=SSE)) == "hello hello "
    mismatch = client.put("/predictions/mine", json=body() | {"id": "yours"})
    assert mismatch.status_code == 422
    assert mismatch.json()["detail"][0]["loc"] == ["body", "id"]


def test_a_running_one_is_not_waited_for_twice(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.05
    wanted = body(max_tokens=2000)
    runner = threading.Thread(target=client.put, args=("/predictions/mine",), kwargs={"json": wanted})
    runner.start()
    server.until(lambda: client.get("/predictions/mine").json().get("status") == "processing")
    again = client.put("/predictions/mine", json=wanted)
    assert (again.status_code, again.json()["status"]) == (202, "processing")
    client.post("/predictions/mine/cancel")
    runner.join()
    assert client.get("/predictions/mine").json()["status"] == "canceled"


def test_a_retry_while_not_ready_is_not_run_in_vain(server: LiveServer, client: httpx.Client) -> None:
    refused = body(PASSING_FAILURE)
    assert client.put("/predictions/mine", json=refused).status_code == 422
    server.view = replace(server.view, phase=Phase.RESTARTING)
    assert client.put("/predictions/mine", json=refused).status_code == 503
    server.view = replace(server.view, phase=Phase.READY)
    assert client.put("/predictions/mine", json=refused).json()["status"] == "succeeded"


def test_cancel(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.01
    created = client.post("/predictions", json=body(max_tokens=1000), headers={"prefer": "respond-async"}).json()
    path = f"/predictions/{created['id']}"
    server.until(lambda: bool(client.get(path).json()["output"]))
    cancelled = client.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, {})
    answer = client.get(path).json()
    assert answer["status"] == "canceled"
    assert answer["output"]
    server.until(lambda: server.engine.aborted == [created["id"]])
    assert client.post(f"{path}/cancel").status_code == 404
    assert client.post("/predictions/nothing/cancel").status_code == 404


@pytest.mark.parametrize("headers", [{}, SSE])
def test_a_client_that_leaves_stops_its_prediction(server: LiveServer, headers: dict[str, str]) -> None:
    server.engine.token_s = 0.01
    if headers:
        with (
            server.client(headers=headers) as leaver,
            leaver.stream("POST", "/predictions", json=body(max_tokens=2000)) as response,
        ):
            next(response.iter_lines())
    else:
        with waiting_client(f"{server.url}/predictions", body(max_tokens=2000)):
            server.until(lambda: server.engine.num_tokens > 0)
    server.until(lambda: len(server.engine.aborted) == 1)
    assert server.engine.running == set()


def test_a_failure_after_the_start_is_a_result(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/predictions", json=body(CRASH_LATER, max_tokens=50))
    assert answer.status_code == 200
    failed = answer.json()
    assert (failed["status"], failed["code"]) == ("failed", "engine_crash_poison")
    assert "".join(failed["output"]) == CRASH_LATER[:5]
    assert isinstance(failed["error"], str)
    seen = stream(shared_client, "POST", "/predictions", json=body(FAIL), headers=SSE)
    assert [name for name, _, _ in seen] == ["start", "completed"]
    assert seen[-1][2]["code"] == "engine_numerical_error"


@pytest.mark.parametrize("headers", [{}, SSE, {**SSE, "last-event-id": "5"}])
def test_a_refused_picture_is_a_status(shared_client: httpx.Client, headers: dict[str, str]) -> None:
    response = shared_client.post("/predictions", json=body(image="data:image/png;base64,%%%"), headers=headers)
    assert response.status_code == 422
    answer = response.json()
    assert answer["error"]["code"] == "invalid_image"
    assert answer["error"]["param"] == "input.image"
    assert answer["detail"][0]["loc"] == ["body", "input", "image"]


def test_a_refusal_of_async_work_is_its_result(shared_client: httpx.Client) -> None:
    refused = body(image="data:image/png;base64,%%%")
    created = shared_client.post("/predictions", json=refused, headers={"prefer": "respond-async"})
    assert created.status_code == 202
    path = f"/predictions/{created.json()['id']}"
    LiveServer.until(lambda: shared_client.get(path).json()["status"] == "failed")
    assert shared_client.get(path).json()["code"] == "invalid_image"
    seen = stream(shared_client, "GET", f"{path}/stream")
    assert [(name, data["code"]) for name, _, data in seen] == [("completed", "invalid_image")]


def test_discovery_names_only_what_is_there(shared_client: httpx.Client) -> None:
    document = shared_client.get("/").json()
    assert document["cog_version"]
    for name, path in document.items():
        if name.endswith("_url") and name != "shutdown_url":
            status = shared_client.get(path.replace("{prediction_id}", "x")).status_code
            assert status in (200, 404, 405), name
            assert status != 404 or "{" in path


def test_shutdown_begins_a_graceful_end(server: LiveServer, client: httpx.Client) -> None:
    for header in ("origin", "x-forwarded-for", "x-forwarded-port", "x-real-ip", "forwarded", "via"):
        assert client.post("/shutdown", headers={header: "203.0.113.7"}).status_code == 403
    assert server.num_shutdowns == 0
    response = client.post("/shutdown")
    assert (response.status_code, response.json()) == (200, {})
    assert server.num_shutdowns == 1


@pytest.mark.parametrize(("server_address", "status"), [(("127.0.0.1", 5000), 403), (("/run/server.sock", None), 200)])
async def test_who_has_no_address_is_local_on_a_unix_socket_only(
    server_address: tuple[str, int | None], status: int, server: LiveServer
) -> None:
    """Of a client that has gone, the socket says none either."""
    told: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/shutdown", "raw_path": b"/shutdown", "query_string": b"",
        "http_version": "1.1", "scheme": "http", "headers": [], "client": None, "server": server_address,
    }  # fmt: skip
    await server.app(scope, receive, send)
    assert told[0]["status"] == status


def test_full_is_429_and_busy_is_said(tmp_path: Path) -> None:
    with LiveServer(tmp_path, limits=ServiceLimits(max_running=1, max_waiting=1)) as server, server.client() as client:
        server.engine.token_s = 0.05
        for _ in range(2):
            client.post("/predictions", json=body(max_tokens=100), headers={"prefer": "respond-async"})
        assert client.get("/health-check").json()["status"] == "BUSY"
        assert client.get("/readyz").status_code == 200
        for headers in ({}, SSE, {"prefer": "respond-async"}):
            refused = client.post("/predictions", json=body(), headers=headers)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert refused.json()["code"] == "overloaded"
            assert refused.json()["status"] == "failed"
