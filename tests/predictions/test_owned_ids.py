"""Two owners use the same id: each finds its own, and nothing shows that there is another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from sqlalchemy import Engine, select

from lavatube.errors import Conflict
from lavatube.predictions.events import Status
from lavatube.predictions.outbox import DELIVERIES
from lavatube.predictions.prediction import Prediction
from tests.predictions.durable import HOOK, DurableServer, NewServer, rows, told, until

PROMPTS: Mapping[str, str] = {"me": "mine ", "you": "yours "}


async def ask(server: DurableServer, owner: str, **options: object) -> Prediction:
    """Both call it `x`."""
    options = {"prediction_id": "x", "fingerprint": owner.encode(), "origin": "test", **options}
    return await server.ask(PROMPTS[owner], owner=owner, **options)


async def ask_both(server: DurableServer, **options: object) -> list[Prediction]:
    return [await ask(server, owner, **options) for owner in PROMPTS]


def texts(num_tokens: int) -> list[str]:
    return [(prompt * num_tokens)[:num_tokens] for prompt in PROMPTS.values()]


async def test_each_has_its_own_on_every_server(server: NewServer, engine: Engine) -> None:
    first, second = server(), server()
    asked = await ask_both(first)
    assert [await one.wait(30) for one in asked] == [True, True]
    assert len(rows(engine)) == len({request.request_id for request in first.engine.submitted}) == 2
    for one in (first, second):
        found = [await one.service.get("x", owner) for owner in PROMPTS]
        assert [prediction.text for prediction in found] == texts(12)
        assert await one.service.find("x", "another") is None
        assert await one.service.find("x") is None
        pages = [await one.service.list(owner, "test", None, 5) for owner in PROMPTS]
        assert [[prediction.key for prediction in page] for page, _ in pages] == [[one.key] for one in asked]


async def test_an_id_means_one_request_of_its_owner(server: NewServer) -> None:
    first, second = server(token_s=0.01), server()
    asked = await ask_both(first)
    again = [await ask(second, owner) for owner in PROMPTS]
    assert [one.key for one in again] == [one.key for one in asked]
    with pytest.raises(Conflict):
        await ask(second, "you", fingerprint=b"other")
    assert [await one.wait(30) for one in asked] == [True, True]
    assert second.engine.submitted == []


async def test_two_requests_of_one_id_at_once_are_one(server: NewServer) -> None:
    one = server()
    asked = await asyncio.gather(*(ask(one, "me") for _ in range(5)))
    assert {id(prediction) for prediction in asked} == {id(asked[0])}
    assert await asked[0].wait(30)
    assert one.preparer.num_prepared == 1


async def test_a_cancel_ends_ones_own(server: NewServer, engine: Engine) -> None:
    first, second = server(token_s=0.01), server()
    mine, yours = await ask_both(first, max_tokens=100)
    cancelling = asyncio.create_task(second.service.cancel_anywhere(await second.service.get("x", "you")))
    while not yours.status.is_terminal:
        await first.service.adopt()
        await asyncio.sleep(0.01)
    assert await cancelling
    assert await mine.wait(30)
    assert rows(engine) == {mine.key: "succeeded", yours.key: "canceled"}


async def test_each_is_read_as_it_is_written(server: NewServer) -> None:
    first, second = server(token_s=0.02), server()
    asked = await ask_both(first, max_tokens=40)
    found = [await second.service.get("x", owner) for owner in PROMPTS]
    for one in found:
        assert [event.id async for events in one.log.follow() for event in events] == list(range(1, 43))
    assert [one.text for one in found] == texts(40)
    assert [await one.wait(30) for one in asked] == [True, True]


async def test_each_webhook_is_told_of_its_own(server: NewServer, engine: Engine) -> None:
    asked = await ask_both(server(), webhook=HOOK)
    assert [await one.wait(30) for one in asked] == [True, True]
    ends = [f"succeeded {text}".encode() for text in texts(12)]
    assert sorted(told(engine)) == sorted(zip([one.key for one in asked], ends, strict=True))
    with engine.connect() as connection:
        assert sorted(connection.scalars(select(DELIVERIES.c.id))) == sorted(f"msg-{one.key}" for one in asked)


async def test_both_are_gone_on_with_after_a_death(server: NewServer) -> None:
    first = server(token_s=0.01)
    asked = await ask_both(first, max_tokens=100)
    await until(lambda: all(one.has_output for one in asked))
    await first.kill()
    second = server()
    await second.take_over()
    found = [await second.service.get("x", owner) for owner in PROMPTS]
    assert [await one.wait(30) for one in found] == [True, True]
    assert [(one.status, one.text) for one in found] == [(Status.SUCCEEDED, text) for text in texts(100)]
    assert [one.key for one in found] == [one.key for one in asked]


async def test_one_that_is_forgotten_leaves_the_other(server: NewServer, engine: Engine) -> None:
    first, second = server(), server()
    mine, yours = await ask_both(first)
    assert await mine.wait(30)
    assert await yours.wait(30)
    await second.service.delete(await second.service.get("x", "you"))
    assert rows(engine) == {mine.key: "succeeded"}
    assert await first.service.find("x", "you") is None
    assert (await first.service.get("x", "me")).text == texts(12)[0]
    again = await ask(first, "you", fingerprint=b"other")
    assert again.key != yours.key
    assert await again.wait(30)
