"""What a server leaves behind is gone on with by another: once, where it was, unless it is the cause of the deaths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, update

from lavatube.predictions.events import Completed, Status
from lavatube.predictions.journal import PREDICTIONS
from lavatube.predictions.leases import SERVERS
from lavatube.predictions.limits import ServiceLimits
from tests.predictions.durable import HOOK, NewServer, rows, told, until


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
