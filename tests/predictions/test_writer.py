"""Group commit: what shares a transaction does not share a fate, and what was written is stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, Engine, func, select

from lavatube.predictions.journal import PIECES, PREDICTIONS, Journal, row_of
from lavatube.predictions.leases import Leases
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import Piece, Request
from lavatube.predictions.writer import Writer
from lavatube.prompt.chat import Chat, Generation

ASKED = Request(Chat(()), Generation())


@pytest.fixture
def journal(engine: Engine) -> Journal:
    return Journal(engine)


@pytest.fixture
async def writer(engine: Engine, journal: Journal) -> AsyncIterator[Writer]:
    writer = Writer(engine, journal, Leases(engine), lambda: None)
    yield writer
    await writer.close()


def accept(journal: Journal, connection: Connection, holder: str) -> bool:
    return journal.accept(connection, row_of(Prediction("one"), ASKED, "tiny", holder))


def refuse(_: Connection) -> None:
    raise ValueError("it can't be made")


async def test_one_change_that_cannot_be_made_fails_alone(writer: Writer) -> None:
    made: list[str] = []
    has_begun, is_free = threading.Event(), threading.Event()

    def wait(_: Connection) -> bool:
        has_begun.set()
        return is_free.wait(30)

    waiting = writer.change(wait)
    assert await asyncio.to_thread(has_begun.wait, 30)
    together = [
        writer.change(lambda _: made.append("before")),
        writer.change(refuse),
        writer.change(lambda _: made.append("after")),
    ]
    is_free.set()
    before, refused, after = await asyncio.gather(*together, return_exceptions=True)
    assert await waiting
    assert isinstance(refused, ValueError)
    assert (before, after, made[-2:]) == (None, None, ["before", "after"])


async def test_pieces_of_what_is_finished_are_stored_all_the_same(writer: Writer, engine: Engine) -> None:
    writer.begin("one", 0)
    for token_id in range(3):
        writer.write("one", Piece(0, [token_id], "a"))
    writer.finish("one")
    await writer.change(lambda _: None)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(PIECES)) == 1
    writer.write("one", Piece(0, [3], "a"))
    await writer.change(lambda _: None)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(PIECES)) == 1, "nothing comes after the end"


def test_who_withdraws_takes_nothing_from_another_server(journal: Journal, engine: Engine) -> None:
    with engine.begin() as connection:
        assert accept(journal, connection, "theirs")
        journal.withdraw(connection, "one", "ours")
        assert connection.scalars(select(PREDICTIONS.c.holder)).all() == ["theirs"]
        journal.withdraw(connection, "one", "theirs")
        assert connection.scalars(select(PREDICTIONS.c.holder)).all() == []
