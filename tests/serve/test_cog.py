"""The Cog API through a real server, with a real HTTP client."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lavatube.predictions.service import ServiceLimits
from lavatube.serve.health import Phase
from tests.predictions.fakes import CRASH_LATER, FAIL, PASSING_FAILURE, PNG
from tests.serve.live import LiveServer
from tests.waiting import waiting_client

SSE = {"accept": "text/event-stream"}


def body(prompt: str = "hello ", **inputs: object) -> dict[str, object]:
    return {"input": {"image": PNG, "prompt": prompt, "max_tokens": 12} | inputs}


def events(lines: Iterator[str]) -> Iterator[tuple[str, int, dict]]:
    """(name, id, data) of each event; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and fields:
            yield fields["event"], int(fields["id"]), json.loads(fields["data"])
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def stream(client: httpx.Client, method: str, path: str, **options: object) -> list[tuple[str, int, dict]]:
    with client.stream(method, path, **options) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def chunks(seen: list[tuple[str, int, dict]]) -> str:
    """The text, in whatever pieces it came: who is late gets more at once. Ids must grow."""
    ids = [event_id for _, event_id, _ in seen]
    assert ids == sorted(set(ids))
    return "".join(data["chunk"] for name, _, data in seen if name == "output")


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


def test_events_come_one_by_one_each_with_an_id(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.02
    arrivals = []
    seen = []
    with client.stream("POST", "/predictions", json=body(), headers=SSE) as response:
        for event in events(response.iter_lines()):
            seen.append(event)
            arrivals.append(time.monotonic())
    names = [name for name, _, _ in seen]
    assert names == ["start", *["output"] * (len(seen) - 2), "completed"]
    assert [seen[0][1], seen[-1][1]] == [1, 14]
    assert chunks(seen) == "hello hello "
    for place, (_, event_id, data) in enumerate(seen[1:-1], 2):
        assert data["index"] == seen[place - 2][1] - 1, "the place of the first, behind the last that was seen"
        assert event_id == data["index"] + len(data["chunk"]) + 1, "the id of the last"
    assert seen[0][2]["status"] == "processing"
    assert seen[-1][2]["status"] == "succeeded"
    assert arrivals[-1] - arrivals[1] > 0.1, "they came at once"


def test_line_separators_do_not_break_a_line(shared_client: httpx.Client) -> None:
    text = "a\u2028b\u0085c\rd\ne"
    seen = stream(shared_client, "POST", "/predictions", json=body(text, max_tokens=len(text.encode())), headers=SSE)
    assert "".join(data["chunk"] for name, _, data in seen if name == "output") == text


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


def test_a_stream_of_async_work_outlives_its_reader_and_is_taken_up_again(
    server: LiveServer, client: httpx.Client
) -> None:
    server.engine.token_s = 0.02
    with client.stream("PUT", "/predictions/mine", json=body(), headers=SSE | {"prefer": "respond-async"}) as response:
        assert response.headers["preference-applied"] == "respond-async"
        _, last_id, _ = next(events(response.iter_lines()))
    time.sleep(0.05)
    rest = stream(client, "PUT", "/predictions/mine", json=body(), headers=SSE | {"last-event-id": str(last_id)})
    assert rest[0][1] > last_id
    assert chunks(rest) == "hello hello "[last_id - 1 :]
    assert rest[-1][2]["status"] == "succeeded"


def test_a_position_past_the_end_of_a_running_one_still_gets_its_end(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.02
    client.put("/predictions/mine", json=body(), headers={"prefer": "respond-async"})
    seen = stream(client, "GET", "/predictions/mine/stream", headers={"last-event-id": "900"})
    assert [(name, data["status"]) for name, _, data in seen] == [("completed", "succeeded")]


def test_a_retry_while_not_ready_is_not_run_in_vain(server: LiveServer, client: httpx.Client) -> None:
    refused = body(PASSING_FAILURE)
    assert client.put("/predictions/mine", json=refused).status_code == 422
    server.view = replace(server.view, phase=Phase.RESTARTING)
    assert client.put("/predictions/mine", json=refused).status_code == 503
    server.view = replace(server.view, phase=Phase.READY)
    assert client.put("/predictions/mine", json=refused).json()["status"] == "succeeded"


def test_a_bad_position_is_refused_before_anything_runs(server: LiveServer, client: httpx.Client) -> None:
    refused = client.post("/predictions", json=body(), headers=SSE | {"last-event-id": "x"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "last-event-id")
    assert server.preparer.num_prepared == 0


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


def test_the_last_reader_of_a_stream_stops_it(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.01
    with client.stream("PUT", "/predictions/mine", json=body(max_tokens=2000), headers=SSE) as creator:
        created_lines = creator.iter_lines()
        next(created_lines)
        with server.client() as other, other.stream("GET", "/predictions/mine/stream") as reader:
            lines = reader.iter_lines()
            next(lines)
            creator.close()
            time.sleep(0.2)
            assert client.get("/predictions/mine").json()["status"] == "processing"
    server.until(lambda: client.get("/predictions/mine").json()["status"] == "canceled")


def test_a_slow_reader_loses_nothing(shared_client: httpx.Client) -> None:
    text = "x" * 500
    with shared_client.stream("POST", "/predictions", json=body(text, max_tokens=4000), headers=SSE) as response:
        time.sleep(0.5)
        seen = list(events(response.iter_lines()))
    assert chunks(seen) == "x" * 4000
    assert seen[-1][1] == 4002


def test_a_reader_that_stopped_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavatube.serve.transport.Connection.stalled_reader_s", 0.3)
    text = json.dumps(body("x" * 500, max_tokens=4000)).encode()
    head = f"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    with LiveServer(tmp_path, send_buffer_bytes=4096) as server, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        server.engine.token_s = 0.0005
        stalled.sendall(head.encode() + b"Accept: text/event-stream\r\n\r\n" + text)
        server.until(lambda: len(server.engine.aborted) == 1)


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


def test_a_prompt_that_is_too_long_names_the_prompt(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body("x" * 3000))
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "prompt_too_long"
    assert response.json()["error"]["param"] == "input.prompt"


@pytest.mark.parametrize(
    ("change", "param", "in_message"),
    [
        ({"max_new_token": 5}, "input.max_new_token", "no field"),
        ({"max_token": 5}, "input.max_token", "no field"),
        ({"image": None}, "input.image", "string"),
        ({"prompt": 1}, "input.prompt", "string"),
        ({"prompt": {"a": 1}}, "input.prompt", "string"),
        ({"top_p": 1.01}, "input.top_p", "1"),
        ({"top_p": "1"}, "input.top_p", "number"),
        ({"temperature": -0.1}, "input.temperature", "0"),
        ({"max_tokens": -1}, "input.max_tokens", "0"),
        ({"max_tokens": 2**31}, "input.max_tokens", "4096"),
        ({"max_tokens": 2**63}, "input.max_tokens", ""),
        ({"max_tokens": True}, "input.max_tokens", "integer"),
        ({"max_tokens": 1.5}, "input.max_tokens", "integer"),
        ({"top_k": -2}, "input.top_k", "0"),
        ({"seed": -1}, "input.seed", "0"),
    ],
)
def test_wrong_inputs_are_named(
    shared_client: httpx.Client, change: dict[str, object], param: str, in_message: str
) -> None:
    response = shared_client.post("/predictions", json=body(**change))
    assert response.status_code == 422
    answer = response.json()
    assert answer["error"]["code"] == "invalid_input"
    assert answer["error"]["param"] == param
    assert in_message in answer["error"]["message"]
    assert answer["error"]["remedy"]
    assert answer["detail"][0]["loc"] == ["body", *param.split(".")]


def test_all_problems_are_listed_and_a_typo_is_recognised(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/predictions", json={"input": {"prompt": "x", "max_token": 3, "top_p": 2}}).json()
    problems = {tuple(item["loc"]): item for item in answer["detail"]}
    assert problems[("body", "input", "image")]["msg"] == "Field required"
    assert problems[("body", "input", "image")]["type"] == "value_error.missing"
    assert "Did you mean max_tokens?" in problems[("body", "input", "max_token")]["msg"]
    assert ("body", "input", "top_p") in problems


def test_only_fields_that_are_served_are_offered(shared_client: httpx.Client) -> None:
    refused = shared_client.post("/predictions", json=body() | {"zzz": 1}).json()["error"]
    assert refused["remedy"] == "The fields are webhook, webhook_events_filter, id, input, context."


def test_a_filter_of_events_has_each_at_most_once(shared_client: httpx.Client) -> None:
    refused = shared_client.post("/predictions", json=body() | {"webhook_events_filter": ["start"] * 5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "webhook_events_filter")


def test_webhooks_are_refused_where_none_are_sent(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body() | {"webhook": "https://example.com/hook"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "webhook"
    assert "sends no webhooks" in response.json()["error"]["message"]


@pytest.mark.parametrize("bad_id", ["../etc", "a/b", "", "a" * 65, "a\nb", "é", "a b", 7])
def test_ids_have_a_pattern(shared_client: httpx.Client, bad_id: object) -> None:
    response = shared_client.post("/predictions", json=body() | {"id": bad_id})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "id"
    assert response.json()["error"]["remedy"]


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
