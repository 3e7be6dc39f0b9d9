"""The deliverer with a real receiver and a real database: what is told, in which order, and that the end always is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import standardwebhooks
from sqlalchemy import Engine, create_engine, select

from lavatube.predictions.outbox import DELIVERIES, Outbox
from lavatube.predictions.postman import Postman
from lavatube.predictions.prediction import Prediction, new_id
from lavatube.predictions.server_secrets import Secrets
from lavatube.predictions.tables import metadata
from lavatube.predictions.webhook import Webhook
from lavatube.predictions.webhooks import Webhooks
from tests.hooks import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'lavatube.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def render(prediction: Prediction) -> bytes:
    body = {"id": prediction.id, "status": prediction.status, "output": prediction.log.outputs}
    return json.dumps(body).encode()


@asynccontextmanager
async def running(database: Engine, receiver: Receiver, clock: Clock | None = None) -> AsyncIterator[Webhooks]:
    outbox = Outbox(database, clock) if clock else Outbox(database)
    hooks = Webhooks(Postman(receiver.host), outbox, Secrets(database), {"test": render})
    hooks.start()
    try:
        yield hooks
    finally:
        await hooks.close(grace_s=0)


def begin(hooks: Webhooks, url: str, *events: str) -> Prediction:
    prediction = Prediction(new_id())
    prediction.origin = "test"
    prediction.webhook = Webhook(url, frozenset(events)) if events else Webhook(url)
    hooks.created(prediction)
    prediction.start(1, 0)
    hooks.started(prediction)
    return prediction


def write(hooks: Webhooks, prediction: Prediction, text: str = "token ") -> None:
    prediction.write(text)
    hooks.written(prediction)


def end(hooks: Webhooks, prediction: Prediction) -> None:
    """As the journal and the service do it."""
    prediction.end_choice(0, "stop")
    prediction.succeed(prediction.usage)
    delivery = hooks.last_word(prediction)
    if delivery is not None:
        with hooks._outbox._engine.begin() as connection:
            hooks._outbox.store(connection, delivery)
    hooks.ended(prediction)


async def until(is_true: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():
            await asyncio.sleep(0.01)


def has_ended(receiver: Receiver) -> bool:
    return any(post.body["status"] == "succeeded" for post in receiver.posts)


def states(database: Engine) -> list[tuple[str, int]]:
    with database.connect() as connection:
        return [(row.state, row.attempts) for row in connection.execute(select(DELIVERIES))]


async def test_start_output_and_end_come_in_order_and_signed(receiver: Receiver, database: Engine) -> None:
    async with running(database, receiver) as hooks:
        prediction = begin(hooks, receiver.url())
        await until(lambda: receiver.posts)
        for _ in range(150):
            write(hooks, prediction)
            await asyncio.sleep(0.01)
        end(hooks, prediction)
        await until(lambda: has_ended(receiver))
        await until(lambda: states(database) == [("delivered", 1)])
        secret = Secrets(database).webhook("")
    statuses = [post.body["status"] for post in receiver.posts]
    assert statuses == ["processing"] * (len(statuses) - 1) + ["succeeded"]
    assert receiver.posts[0].body["output"] == []
    sizes = [len(post.body["output"]) for post in receiver.posts]
    assert len(sizes) >= 3
    assert sizes == sorted(sizes)
    assert sizes[-1] == 150
    gaps = [after.at - before.at for before, after in zip(receiver.posts[:-2], receiver.posts[1:-1], strict=True)]
    assert min(gaps, default=1) > 0.4, "one every 0.5 s"
    for post in receiver.posts:
        standardwebhooks.Webhook(secret).verify(post.raw, post.headers)
    assert len({post.id for post in receiver.posts}) == len(receiver.posts)


async def test_400_tokens_cost_less_than_20_kb(receiver: Receiver, database: Engine) -> None:
    async with running(database, receiver) as hooks:
        prediction = begin(hooks, receiver.url())
        for _ in range(400):
            write(hooks, prediction)
            await asyncio.sleep(0.005)
        end(hooks, prediction)
        await until(lambda: has_ended(receiver))
    assert len(receiver.posts[-1].body["output"]) == 400
    assert sum(len(post.raw) for post in receiver.posts) < 20_000


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        (("completed",), {"succeeded"}),
        (("start",), {"processing"}),
        (("start", "completed"), {"processing", "succeeded"}),
    ],
)
async def test_only_what_was_asked_for_is_told(
    receiver: Receiver, database: Engine, events: tuple[str, ...], wanted: set[str]
) -> None:
    async with running(database, receiver) as hooks:
        prediction = begin(hooks, receiver.url(), *events)
        await until(lambda: "start" not in events or receiver.posts)
        write(hooks, prediction)
        await asyncio.sleep(0.7)
        end(hooks, prediction)
        await until(lambda: "completed" not in events or has_ended(receiver))
    assert {post.body["status"] for post in receiver.posts} == wanted
    assert len(receiver.posts) == len(wanted)


async def test_the_end_waits_for_news_that_are_under_way(receiver: Receiver, database: Engine) -> None:
    """The receiver takes its time over the start; the end must not overtake it."""
    finished: list[str] = []

    def slowly(post: object) -> tuple[int, dict[str, str]]:
        if post.body["status"] == "processing":
            time.sleep(0.5)
        finished.append(post.body["status"])
        return 200, {}

    receiver.answer = slowly
    async with running(database, receiver) as hooks:
        prediction = begin(hooks, receiver.url())
        await until(lambda: receiver.posts)
        write(hooks, prediction)
        end(hooks, prediction)
        await until(lambda: "succeeded" in finished)
        await asyncio.sleep(0.8)
    assert finished == ["processing", "succeeded"]


async def test_the_end_is_told_again_by_the_schedule_with_the_same_id(receiver: Receiver, database: Engine) -> None:
    clock = Clock()
    receiver.answer = lambda post: (500 if len(receiver.posts) < 3 else 204, {})
    async with running(database, receiver, clock) as hooks:
        end(hooks, begin(hooks, receiver.url(), "completed"))
        await until(lambda: states(database) == [("pending", 1)])
        assert len(receiver.posts) == 1, "not before its time"
        for attempts, passed_s in ((2, 6), (3, 340)):
            clock.now += passed_s
            hooks._wake.set()
            await until(lambda attempts=attempts: states(database)[0][1] == attempts)
    assert states(database) == [("delivered", 3)]
    assert len({post.id for post in receiver.posts}) == 1
    assert len({post.raw for post in receiver.posts}) == 1


async def test_a_receiver_that_is_gone_is_not_told_again(receiver: Receiver, database: Engine) -> None:
    receiver.answer = lambda post: (410, {})
    async with running(database, receiver) as hooks:
        end(hooks, begin(hooks, receiver.url(), "completed"))
        await until(lambda: states(database) == [("gone", 1)])


async def test_what_a_process_left_is_told_by_the_next(receiver: Receiver, database: Engine) -> None:
    """It was stored, and nobody was told: as after a kill between the two."""
    left = Webhooks(Postman(receiver.host), Outbox(database), Secrets(database), {"test": render})
    prediction = begin(left, receiver.url(), "completed")
    end(left, prediction)
    await until(lambda: states(database) == [("pending", 0)])
    await left.close(0)
    assert not receiver.posts
    with database.connect() as connection:
        stored = connection.execute(select(DELIVERIES)).one()
    clock = Clock()
    clock.now = stored.not_before_s + 1
    async with running(database, receiver, clock):
        await until(lambda: states(database) == [("delivered", 1)])
    assert [post.id for post in receiver.posts] == [stored.id]


async def test_two_servers_tell_it_once(receiver: Receiver, database: Engine) -> None:
    async with running(database, receiver) as one, running(database, receiver) as other:
        for number in range(20):
            hooks = (one, other)[number % 2]
            end(hooks, begin(hooks, receiver.url(), "completed"))
        await until(lambda: states(database) == [("delivered", 1)] * 20)
    assert len(receiver.posts) == 20


async def test_a_silent_host_does_not_hold_up_another(receiver: Receiver, database: Engine) -> None:
    with Receiver() as slow:
        release = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(post: object) -> tuple[int, dict[str, str]]:
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            return 200, {}

        slow.answer = wait
        hooks = Webhooks(Postman(f"{slow.host},{receiver.host}"), Outbox(database), Secrets(database), {"test": render})
        hooks.start()
        for _ in range(10):
            end(hooks, begin(hooks, slow.url(), "completed"))
        end(hooks, begin(hooks, receiver.url(), "completed"))
        await until(lambda: receiver.posts)
        assert len(slow.posts) <= 4, "at most so many at once to one host"
        release.set()
        await until(lambda: states(database) == [("delivered", 1)] * 11)
        await hooks.close(0)


async def test_closing_tells_what_has_ended(receiver: Receiver, database: Engine) -> None:
    hooks = Webhooks(Postman(receiver.host), Outbox(database), Secrets(database), {"test": render})
    hooks.start()
    for _ in range(8):
        end(hooks, begin(hooks, receiver.url(), "completed"))
    await hooks.close(grace_s=20)
    assert len(receiver.posts) == 8


def test_secrets_are_made_once_and_kept(database: Engine) -> None:
    secret = Secrets(database).webhook("someone")
    assert Secrets(database).webhook("someone") == secret
    assert Secrets(database).webhook("another") != secret
    assert secret.count("_") == 1
