"""Predictions that outlive their connection: accepted for good, ended once, found by every server, kept for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from sqlalchemy import Engine, select, text

from lavatube.errors import Conflict, InvalidInput, StorageUnavailable
from lavatube.predictions.attachments import ATTACHMENTS
from lavatube.predictions.events import Output
from lavatube.predictions.scribe import JournalLimits
from tests.predictions.durable import HOOK, NewServer, rows, told, until


def attached(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(ATTACHMENTS.c.prediction_key)).scalars())


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
