"""A real server that is killed at any moment: nothing that it accepted is lost, contradicted or done twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, select

from lavatube.predictions.journal import PREDICTIONS
from lavatube.predictions.outbox import DELIVERIES
from tests.flow.conftest import data_url
from tests.flow.server import PureServer, Server
from tests.flow.sse import events
from tests.hooks import Receiver
from tests.postgres import Postgres

PICTURE = data_url("shapes.png")
MODEL = "/v1/models/lavatube/tiny"
ENDS = ("succeeded", "failed", "canceled", "completed", "incomplete", "cancelled")


@dataclass
class Asked:
    """What a client asks for, through one of three protocols, until it is told that it was accepted."""

    number: int
    hook: str
    num_tokens: int
    id: str = ""

    def ask(self, url: str) -> None:
        answer = self._send(url, is_waiting=False)
        assert answer.status_code in (200, 201, 202), answer.text
        self.id = answer.json()["id"]

    def text(self, url: str) -> str:
        """Of a run that nothing disturbs."""
        return text_of(self._send(url, is_waiting=True).json())

    def end(self, url: str) -> dict[str, Any]:
        """What the server says once it has ended."""
        path = ("/predictions/", "/v1/predictions/", "/v1/responses/")[self.number % 3] + self.id
        deadline = time.monotonic() + 120
        while (body := httpx.get(url + path, timeout=20).json())["status"] not in ENDS:
            assert time.monotonic() < deadline, body
            time.sleep(0.05)
        return body

    def _send(self, url: str, *, is_waiting: bool) -> httpx.Response:
        sampling = {"temperature": 1.0, "seed": self.number}
        prompt = f"What is it, {self.number}?"
        body: dict[str, Any] = {
            "input": {"image": PICTURE, "prompt": prompt, "max_tokens": self.num_tokens, **sampling},
            "webhook_events_filter": ["completed"],
            **({} if is_waiting else {"webhook": self.hook}),
        }
        match self.number % 3:
            case 0 if is_waiting:
                return httpx.post(f"{url}/predictions", json=body, timeout=60)
            case 0:
                headers = {"Prefer": "respond-async"}
                return httpx.put(f"{url}/predictions/mine-{self.number}", json=body, headers=headers, timeout=20)
            case 1:
                headers = {"Prefer": "wait=60"} if is_waiting else {}
                return httpx.post(f"{url}{MODEL}/predictions", json=body, headers=headers, timeout=70)
            case _:
                parts = [{"type": "input_image", "image_url": PICTURE}, {"type": "input_text", "text": prompt}]
                body = {
                    "model": "tiny",
                    "input": [{"role": "user", "content": parts}],
                    "background": not is_waiting,
                    "max_output_tokens": self.num_tokens,
                    **sampling,
                }
                return httpx.post(f"{url}/v1/responses", json=body, timeout=60)


def text_of(body: dict[str, Any]) -> str:
    if "object" in body:
        return str(body["output"][0]["content"][0]["text"])
    return "".join(body["output"])


class Urls:
    """Where the server is at present; it has another port in each life."""

    def __init__(self) -> None:
        self._is_up = threading.Event()
        self._url = ""

    def now(self) -> str:
        assert self._is_up.wait(60)
        return self._url

    def up(self, url: str) -> None:
        self._url = url
        self._is_up.set()

    def down(self) -> None:
        self._is_up.clear()


class Reader(threading.Thread):
    """Reads the events of one of Cog's predictions, over and over from where it was, until it has read the end."""

    def __init__(self, urls: Urls, prediction_id: str) -> None:
        super().__init__(daemon=True)
        self.ids: list[int] = []
        self.pieces: list[str] = []
        self.end: dict[str, Any] = {}
        self._urls = urls
        self._id = prediction_id

    def run(self) -> None:
        while not self.end:
            try:
                self._read(f"{self._urls.now()}/predictions/{self._id}/stream")
            except httpx.HTTPError:
                time.sleep(0.05)

    def _read(self, url: str) -> None:
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        with httpx.stream("GET", url, headers=headers, timeout=30) as response:
            if response.status_code != 200:
                time.sleep(0.05)
                return
            for event in events(response):
                self.ids.append(int(event.id))
                if event.name == "output":
                    self.pieces.append(event.data["chunk"])
                elif event.name == "completed":
                    self.end = event.data


def disturb(database: str, cache: Path, num_kills: int, seed: int) -> None:
    """Kill a server so many times while clients ask, read and wait; then see to it that all is as if it never died."""
    chance = random.Random(seed)
    asked: list[Asked] = []
    readers: dict[str, Reader] = {}
    urls = Urls()

    def start() -> Server:
        return pure(database, cache, "--webhook-urls", receiver.host)

    def ask_all(url: str) -> None:
        for one in [one for one in asked if not one.id]:
            one.ask(url)
            if one.number % 3 == 0:
                readers[one.id] = Reader(urls, one.id)
                readers[one.id].start()

    with Receiver() as receiver:
        for _ in range(num_kills):
            numbers = range(len(asked), len(asked) + 2)
            asked += [Asked(number, receiver.url(f"/{number}"), chance.randrange(20, 150)) for number in numbers]
            with start() as server:
                killer = threading.Timer(chance.uniform(0.0, 0.6), server.kill)
                if chance.random() < 0.2:  # before it is ready
                    killer.start()
                else:
                    server.wait_ready()
                    urls.up(server.url)
                    killer.start()
                    with suppress(httpx.HTTPError):
                        ask_all(server.url)
                killer.join()
                urls.down()
        with start() as server:
            server.wait_ready()
            urls.up(server.url)
            ask_all(server.url)
            ends = [one.end(server.url) for one in asked]
            with ThreadPoolExecutor(8) as threads:
                texts = list(threads.map(lambda one: one.text(server.url), asked))
            for one in asked:
                if one.id.startswith("resp_"):
                    check_conversation(server.url, one.id)
            for reader in readers.values():
                reader.join(60)
            hooked = [one for one in asked if one.number % 3 != 2]
            until(lambda: all(any(post.body["id"] == one.id for post in receiver.posts) for one in hooked))
    assert {end["status"] for end in ends} <= {"succeeded", "incomplete"}
    assert [text_of(end) for end in ends] == texts
    for reader in readers.values():
        assert reader.ids == sorted(set(reader.ids)), "no event twice"
        assert reader.ids[-1] == len(reader.end["output"]) + 2, "the ids are those of an undisturbed run"
        assert "".join(reader.pieces) == "".join(reader.end["output"])
    assert {post.body["status"] for post in receiver.posts} == {"succeeded"}
    told = {(post.body["id"], post.id) for post in receiver.posts}
    assert len(told) == len({prediction_id for prediction_id, _ in told}), "told again, then by the same webhook-id"
    check_database(database, asked)


def until(is_true: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def check_conversation(url: str, response_id: str) -> None:
    """It goes on with the picture that was sent to a server before."""
    follow_up = {"model": "tiny", "input": "And then?", "previous_response_id": response_id, "max_output_tokens": 1}
    answer = httpx.post(f"{url}/v1/responses", json=follow_up, timeout=60).json()
    assert answer["usage"]["input_tokens_details"]["image_tokens"] > 0, answer
    query = {"include[]": "message.input_image.image_url"}
    listed = httpx.get(f"{url}/v1/responses/{response_id}/input_items", params=query, timeout=20).json()
    assert listed["data"][0]["content"][0]["image_url"] == PICTURE


def check_database(database: str, asked: list[Asked]) -> None:
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        rows = dict(connection.execute(select(PREDICTIONS.c.id, PREDICTIONS.c.status)).all())
        told = list(connection.execute(select(DELIVERIES.c.prediction_key)).scalars())
    engine.dispose()
    assert {one.id.removeprefix("resp_") for one in asked} <= rows.keys()
    assert set(rows.values()) == {"succeeded"}
    assert len(told) == len(set(told))


def pure(database: str, cache: Path, *flags: str, period_s: float = 0.01) -> Server:
    more = ("--database", database, "--max-server-deaths", "1000", *flags)
    return PureServer("tiny", cache, *more, environ={"PURE_PERIOD_S": str(period_s)})


def ask(url: str, number: int, hook: str = "", num_tokens: int = 100) -> Asked:
    asked = Asked(number, hook, num_tokens)
    asked.ask(url)
    return asked


def test_sigterm_hands_over_what_does_not_end_within_the_grace(tmp_path: Path, cache: Path) -> None:
    database, urls = f"sqlite:///{tmp_path / 'journal.db'}", Urls()
    with Receiver() as receiver:
        flags = ("--webhook-urls", receiver.host, "--shutdown-grace-s", "0.2")
        with pure(database, cache, *flags, period_s=0.05) as server:
            server.wait_ready()
            urls.up(server.url)
            asked = ask(server.url, 0, receiver.url("/0"), num_tokens=120)
            reader = Reader(urls, asked.id)
            reader.start()
            until(lambda: len(reader.pieces) > 3)
            assert server.stop() == 0
            urls.down()
            assert not reader.end, "its stream ends without an end"
        with pure(database, cache, *flags) as server:
            server.wait_ready()
            urls.up(server.url)
            body = asked.end(server.url)
            reader.join(60)
            assert text_of(body) == asked.text(server.url) == "".join(reader.pieces)
            assert reader.ids[-1] == len(body["output"]) + 2
            until(lambda: len(receiver.posts) == 1)
            assert server.stop() == 0


def test_two_fronts_share_a_database_and_one_takes_over_when_the_other_dies(postgres: Postgres, cache: Path) -> None:
    database = postgres.database()
    with Receiver() as receiver:
        flags = ("--webhook-urls", receiver.host)
        with pure(database, cache, *flags) as first, pure(database, cache, *flags) as second:
            first.wait_ready()
            second.wait_ready()
            done = ask(first.url, 0, receiver.url("/0"), num_tokens=20)
            assert done.end(second.url)["status"] == "succeeded", "it is found through either"
            asked = [ask(first.url, number, receiver.url(f"/{number}"), num_tokens=200) for number in range(3, 7)]
            until(lambda: httpx.get(f"{second.url}/predictions/mine-3").json()["output"])
            assert "goes on after" not in second.text
            first.kill()
            ends = [one.end(second.url) for one in asked]
            with ThreadPoolExecutor(4) as threads:
                texts = list(threads.map(lambda one: one.text(second.url), asked))
            assert [text_of(end) for end in ends] == texts
            hooked = [one for one in (done, *asked) if one.number % 3 != 2]
            until(lambda: {post.body["id"] for post in receiver.posts} == {one.id for one in hooked})
    assert len({post.id for post in receiver.posts}) == len(hooked)
    check_database(database, [done, *asked])


def test_a_few_kills(tmp_path: Path, cache: Path) -> None:
    disturb(f"sqlite:///{tmp_path / 'journal.db'}", cache, num_kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
def test_25_kills(tmp_path: Path, cache: Path, seed: int) -> None:
    disturb(f"sqlite:///{tmp_path / 'journal.db'}", cache, num_kills=25, seed=seed)
