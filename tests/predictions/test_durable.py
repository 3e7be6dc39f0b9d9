"""Predictions that outlive their server: accepted for good, gone on with by others, ended once, found by everybody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text, update

from lavatube.errors import Conflict, InvalidInput, StorageUnavailable
from lavatube.predictions.events import Completed, Output, Status
from lavatube.predictions.journal import ATTACHMENTS, PREDICTIONS
from lavatube.predictions.leases import SERVERS
from lavatube.predictions.outbox import DELIVERIES
from lavatube.predictions.scribe import JournalLimits
from lavatube.predictions.service import ServiceLimits
from lavatube.predictions.webhook import Webhook
from tests.predictions.durable import Clock, DurableServer, until

NewServer = Callable[..., DurableServer]
HOOK = Webhook("https://example.com/hook")


@pytest.fixture
async def server(url: str, tmp_path: Path) -> AsyncIterator[NewServer]:
    """Makes servers on one database; those that still run at the end are stopped."""
    servers: list[DurableServer] = []
    clock = Clock()

    def make(**options: object) -> DurableServer:
        servers.append(DurableServer(url, tmp_path / "tokenizer", clock, **options))
        return servers[-1]

    yield make
    for one in servers:
        if not one.scribe._writer._running.done():
            await one.stop()


def rows(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return dict(connection.execute(select(PREDICTIONS.c.id, PREDICTIONS.c.status)).all())


def attached(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(ATTACHMENTS.c.prediction_id)).scalars())


def told(engine: Engine) -> list[tuple[str, bytes]]:
    with engine.connect() as connection:
        found = connection.execute(select(DELIVERIES.c.prediction_id, DELIVERIES.c.body))
        return [(prediction_id, bytes(body)) for prediction_id, body in found]


async def test_what_is_accepted_is_in_the_database(server: NewServer, engine: Engine) -> None:
    prediction = await server(token_s=0.05).ask()
    assert rows(engine) == {prediction.id: "starting"} or rows(engine) == {prediction.id: "processing"}


async def test_what_does_not_outlive_its_connection_is_not(server: NewServer, engine: Engine) -> None:
    prediction = await server().ask(is_journaled=False)
    assert await prediction.wait(30)
    assert rows(engine) == {}


async def test_an_end_is_seen_once_it_is_stored_with_what_its_webhook_is_told(
    server: NewServer, engine: Engine
) -> None:
    prediction = await server().ask(webhook=HOOK)
    assert await prediction.wait(30)
    assert rows(engine) == {prediction.id: "succeeded"}
    assert told(engine) == [(prediction.id, b"succeeded hello hello ")]


async def test_another_server_goes_on_where_one_died(server: NewServer, engine: Engine) -> None:
    first = server(token_s=0.01)
    begun = await first.ask(max_tokens=60, webhook=HOOK)
    await until(lambda: len(begun.log.outputs) > 10)
    await first.kill()
    assert rows(engine) == {begun.id: "processing"}
    second = server()
    await second.take_over()
    found = await second.service.get(begun.id)
    assert await found.wait(30)
    assert (found.status, found.text) == (Status.SUCCEEDED, "hello " * 10)
    assert found.usage.completion_tokens == 60
    assert len(second.engine.submitted[0].begun[0]) >= 10, "what was stored is not computed again"
    assert [event.id for event in found.log._events] == list(range(1, 63))
    assert told(engine) == [(begun.id, b"succeeded " + b"hello " * 10)]


async def test_what_was_queued_is_run(server: NewServer) -> None:
    first = server(token_s=0.01, limits=ServiceLimits(max_running=1))
    asked = [await first.ask(max_tokens=100) for _ in range(5)]
    await first.kill()
    second = server()
    await second.take_over()
    found = [await second.service.get(one.id) for one in asked]
    assert [await one.wait(30) for one in found] == [True] * 5
    assert {one.text for one in found} == {("hello " * 17)[:100]}


async def test_what_a_living_server_has_is_left_to_it(server: NewServer) -> None:
    first, second = server(token_s=0.01), server()
    asked = await first.ask(max_tokens=40)
    for _ in range(3):
        await first.scribe.keep_up()
        await second.service.adopt()
    assert second.service.num_active == 0
    assert await asked.wait(30)
    assert second.engine.submitted == []


async def test_who_was_only_slow_writes_nothing_any_more(server: NewServer, engine: Engine) -> None:
    """Its work was taken by another, so it lets its readers go; they find it there."""
    slow, second = server(token_s=0.02), server()
    begun = await slow.ask(max_tokens=200, webhook=HOOK)
    await until(lambda: len(begun.log.outputs) > 3)
    with engine.begin() as connection:  # as `bury` and `free` do it for one that is silent
        connection.execute(SERVERS.delete().where(SERVERS.c.id == slow.leases.holder))
        connection.execute(update(PREDICTIONS).values(holder=None))
    await second.service.adopt()
    events = [event async for events in begun.log.follow() for event in events]
    assert not isinstance(events[-1], Completed)
    assert slow.service.num_active == 0
    found = await second.service.get(begun.id)
    assert await found.wait(30)
    assert found.text == ("hello " * 34)[:200]
    assert [prediction_id for prediction_id, _ in told(engine)] == [begun.id]
    assert (await slow.service.get(begun.id)).status is Status.SUCCEEDED


async def test_what_brought_servers_down_is_failed_and_told(server: NewServer, engine: Engine) -> None:
    """It was in the engine and had not said a word when the server died, and again when the next one did."""
    prediction_id = ""
    for _ in range(2):
        victim = server(token_s=1000.0)
        if not prediction_id:
            prediction_id = (await victim.ask(webhook=HOOK)).id
        else:
            await victim.take_over()
        await until(lambda victim=victim: victim.engine.submitted)
        await victim.kill()
    survivor = server()
    await survivor.take_over()
    found = await survivor.service.get(prediction_id)
    assert await found.wait(30)
    assert found.error is not None
    assert found.error.code == "engine_crash_poison"
    assert [body for _, body in told(engine)] == [b"failed "]
    assert survivor.engine.submitted == []


async def test_who_speaks_between_deaths_is_no_cause(server: NewServer) -> None:
    first = server(token_s=0.01)
    prediction = await first.ask(max_tokens=100)
    for _ in range(3):
        num_pieces = len(prediction.log.outputs)
        await until(lambda known=prediction, num=num_pieces: len(known.log.outputs) > num)
        await first.kill()
        first = server(token_s=0.01)
        await first.take_over()
        prediction = await first.service.get(prediction.id)
    assert await prediction.wait(30)
    assert prediction.text == ("hello " * 17)[:100]


async def test_by_policy_what_ran_is_failed_and_what_waited_is_run(server: NewServer) -> None:
    first = server(token_s=0.01, limits=ServiceLimits(max_running=1))
    running, *waiting = [await first.ask(max_tokens=150) for _ in range(4)]
    await until(lambda: running.has_output)
    await first.kill()
    second = server(limits=ServiceLimits(is_going_on=False))
    await second.take_over()
    found = await second.service.get(running.id)
    assert await found.wait(30)
    assert found.error is not None
    assert (found.error.code, found.text[:1]) == ("server_died", "h")
    for one in waiting[1:]:  # the first was in the engine's own line
        found = await second.service.get(one.id)
        assert await found.wait(30)
        assert (found.status, found.text) == (Status.SUCCEEDED, "hello " * 25)


async def test_an_id_is_known_to_every_server(server: NewServer) -> None:
    first, second = server(token_s=0.01), server()
    asked = await first.ask(prediction_id="mine", fingerprint=b"1")
    known = await second.ask(prediction_id="mine", fingerprint=b"1")
    assert known.id == asked.id
    with pytest.raises(Conflict):
        await second.ask(prediction_id="mine", fingerprint=b"2")
    assert await asked.wait(30)
    assert second.engine.submitted == []
    both = await asyncio.gather(*(one.ask(prediction_id="both", fingerprint=b"") for one in (first, second)))
    assert [await one.wait(30) for one in both] == [True, True]
    assert len(first.engine.submitted) + len(second.engine.submitted) == 2, "each id ran once"


async def test_a_reader_anywhere_sees_it_as_it_is_written(server: NewServer) -> None:
    first, second = server(token_s=0.02), server()
    asked = await first.ask(max_tokens=60)
    found = await second.service.get(asked.id)
    assert not found.status.is_terminal
    async with aclosing(found.log.follow()) as several:
        seen = [event async for events in several for event in events]
    assert await asked.wait(30)
    assert [event.text for event in seen if isinstance(event, Output)] == asked.log.outputs
    assert [event.id for event in seen] == [event.id for event in asked.log._events]
    assert (found.status, found.usage) == (asked.status, asked.usage)


async def test_a_cancel_reaches_the_server_that_runs_it(server: NewServer, engine: Engine) -> None:
    first, second = server(token_s=0.01), server()
    asked = await first.ask(max_tokens=1000)
    await until(lambda: asked.has_output)
    cancelling = asyncio.create_task(second.service.cancel_anywhere(await second.service.get(asked.id)))
    while not asked.status.is_terminal:
        await first.service.adopt()
        await asyncio.sleep(0.01)
    assert await cancelling
    assert rows(engine) == {asked.id: "canceled"}


async def test_a_cancel_is_durable_when_it_is_answered(server: NewServer, engine: Engine) -> None:
    first = server(token_s=0.01)
    asked = await first.ask(max_tokens=1000)
    assert await first.service.cancel_anywhere(asked)
    assert rows(engine) == {asked.id: "canceled"}
    assert not await first.service.cancel_anywhere(asked)


async def test_a_server_that_stops_hands_over_what_it_does_not_finish(server: NewServer, engine: Engine) -> None:
    first = server(token_s=0.01)
    kept, other = await first.ask(max_tokens=300), await first.ask(max_tokens=300, is_journaled=False)
    await until(lambda: kept.has_output and other.has_output)
    await first.stop()
    assert other.error is not None
    assert other.error.code == "draining"
    assert (rows(engine), kept.status) == ({kept.id: "processing"}, Status.PROCESSING)
    seen = [event async for events in kept.log.follow() for event in events]
    assert not isinstance(seen[-1], Completed), "its readers are let go"
    second = server()
    await second.service.adopt()
    found = await second.service.get(kept.id)
    assert await found.wait(30)
    assert found.text == "hello " * 50


async def test_another_models_predictions_wait_for_a_server_of_theirs(server: NewServer) -> None:
    first = server(token_s=1.0, model="a")
    asked = await first.ask()
    await first.kill()
    other = server(model="b")
    await other.take_over()
    assert other.service.num_active == 0
    assert (await other.service.get(asked.id)).status in (Status.STARTING, Status.PROCESSING)
    own = server(model="a")
    await own.take_over()
    assert await (await own.service.get(asked.id)).wait(30)


async def test_what_ended_is_kept_by_age_and_size(server: NewServer, engine: Engine) -> None:
    by_size = server(journal=JournalLimits(max_bytes=6000))
    asked = [await by_size.ask(max_tokens=12) for _ in range(6)]
    for one in asked:
        assert await one.wait(30)
    await by_size.scribe.keep_up()
    kept = rows(engine)
    assert 0 < len(kept) < 6
    newest = sorted(asked, key=lambda one: one.completed, reverse=True)[: len(kept)]
    assert kept.keys() == {one.id for one in newest}
    by_age = server(journal=JournalLimits(max_age_s=0.0))
    await by_age.scribe.keep_up()
    assert rows(engine) == {}


async def test_attachments_are_kept_and_forgotten_with_their_prediction(server: NewServer, engine: Engine) -> None:
    first = server()
    asked = [await first.ask(attachments={"picture": f"{number} \0 é"}) for number in range(2)]
    in_memory = await first.ask(attachments={"picture": "mine to keep"}, is_journaled=False)
    assert [await one.wait(30) for one in (*asked, in_memory)] == [True] * 3
    await first.stop()
    second = server()
    found = [await second.service.get(one.id) for one in asked]
    assert [await second.service.attachment(one, "picture") for one in found] == ["0 \0 é", "1 \0 é"]
    assert await second.service.attachment(found[0], "other") is None
    assert await second.service.attachment(in_memory, "picture") is None
    await second.service.delete(found[0])
    assert attached(engine) == [asked[1].id]


async def test_attachments_count_in_what_is_kept(server: NewServer, engine: Engine) -> None:
    one = server(journal=JournalLimits(max_bytes=100_000))
    asked = []
    for size_bytes in (1, 90_000, 20_000):
        asked.append(await one.ask(attachments={"picture": "x" * size_bytes}))
        assert await asked[-1].wait(30)
    await one.scribe.keep_up()
    assert rows(engine).keys() == {asked[2].id}
    assert attached(engine) == [asked[2].id]


async def test_a_page_is_the_newest_first_whoever_ran_them(server: NewServer) -> None:
    first, second = server(), server()
    asked = [await one.ask(origin="test", owner="me") for one in (first, second, first, second, first)]
    await first.ask(origin="test", owner="you")
    page, cursor = await second.service.list("me", "test", None, 3)
    rest, end = await first.service.list("me", "test", cursor, 3)
    assert [one.id for one in (*page, *rest)] == [one.id for one in reversed(asked)]
    assert end is None


async def test_a_moment_to_cancel_at_holds_for_every_server(server: NewServer, engine: Engine) -> None:
    first = server(token_s=0.01)
    asked = await first.ask(max_tokens=2000, cancel_at=datetime.now(UTC) + timedelta(seconds=1.5))
    await until(lambda: asked.has_output)
    await first.kill()
    second = server(token_s=0.01)
    await second.take_over()
    found = await second.service.get(asked.id)
    assert await found.wait(60)
    assert rows(engine) == {asked.id: "canceled"}
    assert datetime.now(UTC) >= asked.cancel_at


async def test_what_is_no_id_is_nobodys(server: NewServer) -> None:
    one = server()
    assert await one.service.find("\0") is None
    with pytest.raises(InvalidInput):
        await one.service.list("me", "test", "\0", 3)


async def test_a_deleted_one_is_gone_everywhere(server: NewServer, engine: Engine) -> None:
    first, second = server(token_s=0.01), server()
    asked = await first.ask(max_tokens=1000)
    await first.service.delete(asked)
    assert rows(engine) == {}
    assert await second.service.find(asked.id) is None
    ended = await first.ask()
    assert await ended.wait(30)
    await second.service.delete(await second.service.get(ended.id))
    assert await first.service.find(ended.id) is None


@contextlib.contextmanager
def broken(engine: Engine) -> Iterator[None]:
    """A database that refuses every write, as a full disk does."""
    if engine.dialect.name != "sqlite":
        pytest.skip("SQLite stands for both: what is caught is the same error of SQLAlchemy's")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE servers RENAME TO servers_away"))
    yield
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE servers_away RENAME TO servers"))


async def test_while_the_database_fails_nothing_is_accepted_and_what_runs_catches_up(
    server: NewServer, engine: Engine
) -> None:
    first = server(token_s=0.01)
    running = await first.ask(max_tokens=100)
    await until(lambda: running.has_output)
    with broken(engine):
        with pytest.raises(StorageUnavailable) as refusal:
            await first.ask(prediction_id="refused")
        assert refusal.value.retry_after_s
        assert first.service.num_active == 1
        in_memory = await first.ask(is_journaled=False)
        assert await in_memory.wait(30)
        await until(lambda: len(running.log.outputs) == 100)
        assert not running.status.is_terminal, "the end is stored first"
    assert await running.wait(30)
    assert rows(engine) == {running.id: "succeeded"}
    again = await first.ask(prediction_id="refused")
    assert await again.wait(30)
