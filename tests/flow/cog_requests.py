"""The requests that are sent to the real Cog server and to ours, and which of them are answered otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx

from tests.flow.conftest import ENDLESS_TOKENS, EXAMPLES, data_url
from tests.flow.sse import events
from tests.hooks import Receiver

INPUT = {"image": data_url("shapes.png"), "prompt": "Describe the picture.", "temperature": 0, "max_tokens": 12}
OTHER = {**INPUT, "prompt": "Something else."}
ENDLESS = {**INPUT, "max_tokens": ENDLESS_TOKENS}
ASYNC = {"Prefer": "respond-async"}
EVENTS = {"Accept": "text/event-stream"}
ENDED = ("completed",)
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
NO_GET = "501 Server Error"
"""What Cog says when it has fetched from the receiver of webhooks."""


class Api:
    """One of the two servers, asked when nothing runs there."""

    def __init__(self, url: str, receiver: Receiver) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)
        self.receiver = receiver
        self.hook = f"/{self.http.base_url.port}/"
        self.num_hooks = 0

    def close(self) -> None:
        self.http.close()

    def post(self, input_: object = INPUT, headers: dict[str, str] | None = None, **more: object) -> httpx.Response:
        return self.http.post("/predictions", json={"input": input_, **more}, headers=headers)

    def put(
        self, name: str, input_: object = INPUT, headers: dict[str, str] | None = None, **more: object
    ) -> httpx.Response:
        return self.http.put(f"/predictions/{name}", json={"input": input_, **more}, headers=headers)

    def status(self, method: str, path: str, **more: Any) -> int:
        return self.http.request(method, path, **more).status_code

    def cancel(self, name: str) -> httpx.Response:
        return self.http.post(f"/predictions/{name}/cancel")

    def hooks(self, *names: str, input_: object = INPUT) -> list[dict[str, Any]]:
        """What a webhook was told of one prediction, in the order of its output, the end at last; and the headers."""
        self.num_hooks += 1
        path = f"{self.hook}{self.num_hooks}"
        chosen = {"webhook_events_filter": list(names)} if names else {}
        assert self.post(input_, ASYNC | TRACE, webhook=self.receiver.url(path), **chosen).status_code == 202
        posts = self.receiver.ended(path, 60)
        self.wait_idle()
        return [{"body": post.body, "headers": set(post.headers)} for post in posts]

    @contextmanager
    def running(self, name: str) -> Iterator[httpx.Response]:
        """Something whose answer is being written meanwhile, by a name of its own; what its creation was answered."""
        created = self.begin(name, ASYNC)
        self.until(lambda: bool(self.receiver.at(self.hook + name)))
        try:
            yield created
        finally:
            self.cancel(name)
            self.wait_idle()

    def begin(self, name: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """One that does not end by itself; a webhook is told of its first output."""
        hook = {"webhook": self.receiver.url(self.hook + name), "webhook_events_filter": ["output"]}
        return self.put(name, ENDLESS, headers, **hook)

    def canceled(self, name: str) -> dict[str, Any]:
        """What somebody who waits is answered when the prediction is cancelled in the middle."""
        answers: list[httpx.Response] = []
        waiting = Thread(target=lambda: answers.append(self.begin(name)))
        waiting.start()
        self.until(lambda: bool(self.receiver.at(self.hook + name)))
        assert self.cancel(name).status_code == 200
        waiting.join()
        return answer(answers[0])

    def events(self, path: str = "/predictions", method: str = "POST", **headers: str) -> list[dict[str, Any]]:
        with self.http.stream(method, path, json={"input": INPUT}, headers=EVENTS | headers) as response:
            assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
            return [{"name": event.name, "has_id": bool(event.id), "data": event.data} for event in events(response)]

    def health(self) -> str:
        return str(self.http.get("/health-check").json()["status"])

    def wait_idle(self) -> None:
        self.until(lambda: self.health() == "READY")

    @staticmethod
    def until(is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def answer(response: httpx.Response) -> dict[str, Any]:
    return {"status": response.status_code, "body": response.json()}


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key not in names}


SAME: dict[str, Callable[[Api], Any]] = {
    "discovery": lambda api: without(api.http.get("/").json(), "docs_url"),
    "health": lambda api: without(api.http.get("/health-check").json(), "version"),
    "openapi.json": lambda api: api.http.get("/openapi.json").json()["paths"],
    "waiting": lambda api: answer(api.post()),
    "an id in the body": lambda api: answer(api.post(id="body-1")),
    "an id in the path": lambda api: answer(api.put("path-1")),
    "an id in both": lambda api: answer(api.put("both-1", id="both-1")),
    "two ids": lambda api: answer(api.put("one", id="another")),
    "no tokens": lambda api: answer(_with(api, max_tokens=0)),
    "context": lambda api: answer(api.post(context={"a": "b"})),
    "wait=60": lambda api: answer(api.post(headers={"Prefer": "wait=60"})),
    "respond-async": lambda api: answer(api.post(headers=ASYNC)),
    "events": lambda api: _course(api.events()),
    "events beat respond-async": lambda api: _course(api.events(**ASYNC)),
    "events among others": lambda api: _course(api.events(accept="application/json, text/event-stream;q=0.5")),
    "no image": lambda api: answer(api.post({"prompt": "a"})),
    "no input at all": lambda api: answer(api.post({})),
    "a number as text": lambda api: answer(_with(api, top_p="0.5")),
    "a text as number": lambda api: answer(_with(api, prompt=1)),
    "null as text": lambda api: answer(_with(api, prompt=None)),
    "above the bound": lambda api: answer(_with(api, top_p=1.5)),
    "below the bound": lambda api: answer(_with(api, temperature=-1)),
    "below zero tokens": lambda api: answer(_with(api, max_tokens=-1)),
    "malformed JSON": lambda api: api.status(
        "POST", "/predictions", content=b"{", headers={"Content-Type": "application/json"}
    ),
    "a list": lambda api: api.status("POST", "/predictions", json=[]),
    "no JSON": lambda api: api.status("POST", "/predictions", content=b"{}", headers={"Content-Type": "text/plain"}),
    "an unknown event": lambda api: api.post(webhook=api.receiver.url("/x"), webhook_events_filter=["x"]).status_code,
    "an unknown path": lambda api: api.status("GET", "/nothing"),
    "another method": lambda api: api.status("DELETE", "/predictions"),
    "canceling nothing": lambda api: answer(api.cancel("nothing")),
    "canceling": lambda api: _canceling(api),
    "canceled while somebody waits": lambda api: without(api.canceled("waited")["body"], "output"),
    "put again while it runs": lambda api: _again(api, "again-1", ENDLESS)["status"],
    "webhook of the end": lambda api: [post["body"] for post in api.hooks(*ENDED)],
    "webhook of start and end": lambda api: [without(post["body"], "metrics") for post in api.hooks("start", *ENDED)],
}  # fmt: skip

DIFFERENT: dict[str, tuple[Callable[[Api], Any], Any, Any]] = {
    "reading": (lambda api: _reading(api), (405, 404), (200, 200)),
    "queue": (lambda api: _beside(api, "beside-1", lambda: api.post(headers=ASYNC).status_code), 409, 202),
    "busy": (lambda api: _beside(api, "beside-2", lambda: api.health()), "BUSY", "READY"),
    "prefer": (lambda api: api.post(headers={"Prefer": "handling=lenient, respond-async"}).status_code, 200, 202),
    "finished ids": (lambda api: _is_remembered(api), False, True),
    "other input": (lambda api: _again(api, "other-1", OTHER)["status"], 202, 409),
    "input": (lambda api: "input" in _again(api, "again-2", ENDLESS)["body"], True, False),
    "event ids": (lambda api: {event["has_id"] for event in api.events()}, {False}, {True}),
    "replay": (lambda api: _replay(api), "start", "output"),
    "partial output": (lambda api: "output" in api.canceled("waited-2")["body"], False, True),
    "error bodies": (lambda api: _error_types(api), {"text/plain", ""}, {"application/json"}),
    "no body": (lambda api: api.status("POST", "/predictions"), 422, 415),
    "unknown fields": (lambda api: _with_unknown_fields(api), (200, 200), (422, 422)),
    "bad picture": (lambda api: _with(api, image="data:image/png;base64,AAAA").status_code, 200, 422),
    "local files": (lambda api: _with(api, image=str(EXAMPLES / "shapes.png")).status_code, 200, 422),
    "private addresses": (lambda api: NO_GET in _with(api, image=api.receiver.url("/x.png")).text, True, False),
    "ids": (lambda api: api.post(id="a b").status_code, 200, 422),
    "bad webhook": (lambda api: api.post(webhook="nothing").status_code, 200, 422),
    "webhook count": (lambda api: len(api.hooks(input_={**INPUT, "max_tokens": 400})) > 50, True, False),
    "webhook signature": (lambda api: "webhook-signature" in api.hooks(*ENDED)[0]["headers"], False, True),
    "webhook trace": (lambda api: "traceparent" in api.hooks(*ENDED)[0]["headers"], True, False),
    "trainings": (lambda api: api.status("POST", "/trainings", json={"input": INPUT}), 200, 404),
    "docs": (lambda api: api.http.get("/").json().get("docs_url"), "/docs", None),
    "metrics": (lambda api: api.status("GET", "/metrics"), 404, 200),
}  # fmt: skip


def _with(api: Api, **inputs: object) -> httpx.Response:
    return api.post({**INPUT, **inputs})


def _with_unknown_fields(api: Api) -> tuple[int, int]:
    in_input = _with(api, x=1).status_code
    api.wait_idle()
    return in_input, api.post(x=1).status_code


def _course(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stream was made of, with the text of its output."""
    first, *outputs, last = events
    places = [event["data"]["index"] for event in outputs]
    assert places[0] == 0
    assert places == sorted(set(places)), "a larger piece has the place of its first"
    output = "".join(event["data"]["chunk"] for event in outputs)
    return {"first": without(first, "has_id"), "output": output, "last": without(last, "has_id")}


def _canceling(api: Api) -> dict[str, Any]:
    with api.running("canceled-1") as created:
        return {"created": answer(created), "canceled": answer(api.cancel("canceled-1"))}


def _again(api: Api, name: str, input_: object) -> dict[str, Any]:
    with api.running(name):
        return answer(api.put(name, input_))


def _beside(api: Api, name: str, look: Callable[[], Any]) -> Any:
    with api.running(name):
        return look()


def _reading(api: Api) -> tuple[int, int]:
    api.put("read-1")
    return api.status("GET", "/predictions/read-1"), api.status("GET", "/predictions/read-1/stream")


def _is_remembered(api: Api) -> bool:
    """Whether each `PUT` is answered with one run; no four runs take the same time."""
    times = []
    for _ in range(4):
        times.append(api.put("ended-1").json()["metrics"]["predict_time"])
        api.wait_idle()
    return max(times) - min(times) < 0.001


def _replay(api: Api) -> str:
    """What a reader gets first who says that it has seen two events."""
    headers = EVENTS | {"Last-Event-ID": "2"}
    with api.running("replay-1"):
        with api.http.stream("PUT", "/predictions/replay-1", json={"input": ENDLESS}, headers=headers) as response:
            return next(events(response)).name


def _error_types(api: Api) -> set[str]:
    malformed = api.http.post("/predictions", content=b"{", headers={"Content-Type": "application/json"})
    answers = (malformed, api.http.get("/nothing"), api.http.delete("/predictions"))
    return {one.headers.get("content-type", "").partition(";")[0] for one in answers}
