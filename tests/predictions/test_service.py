"""The service: from request to end, with a real tokenizer, real tasks and an engine that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lavatube.errors import Conflict, Draining, EngineCrashed, NotFound, Overloaded
from lavatube.predictions.events import Status
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.service import PredictionService
from lavatube.prompt.chat import Generation, single_turn
from tests.predictions.fakes import (
    CRASH_LATER,
    DEFECT,
    FAIL,
    PASSING_FAILURE,
    PNG,
    SLOW_PREPARE,
    EchoEngine,
    EchoPreparer,
)

ROOM = ServiceLimits(max_running=4, max_waiting=60)


@pytest.fixture
def preparer(tmp_path: Path) -> EchoPreparer:
    return EchoPreparer(tmp_path)


@pytest.fixture
def engine(preparer: EchoPreparer) -> EchoEngine:
    return EchoEngine().knows(preparer)


@pytest.fixture
async def service(preparer: EchoPreparer, engine: EchoEngine) -> AsyncIterator[PredictionService]:
    service = PredictionService(preparer, engine, ROOM)
    yield service
    await service.drain(0)


async def ask(service: PredictionService, prompt: str = "hello ", **options: object) -> Prediction:
    generation = Generation(max_tokens=int(str(options.pop("max_tokens", 12))), stop=tuple(options.pop("stop", ())))
    return await service.create(single_turn(prompt, PNG), generation, **options)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0.005)


async def test_an_answer_is_written_piece_by_piece_and_counted(service: PredictionService) -> None:
    prediction = await ask(service)
    assert prediction.status is Status.STARTING
    assert await prediction.wait(5)
    assert prediction.text == "hello hello "
    assert (prediction.status, prediction.finish_reason) == (Status.SUCCEEDED, "length")
    assert prediction.usage.prompt_tokens == 6 + 4
    assert (prediction.usage.image_tokens, prediction.usage.cached_tokens) == (4, 1)
    assert prediction.usage.completion_tokens == 12
    assert len(prediction.log.outputs) == 12


@pytest.mark.parametrize(("is_sharing", "salt"), [(False, b"key-1"), (True, b"")])
async def test_an_owners_work_is_found_by_others_only_where_that_is_wanted(
    preparer: EchoPreparer, engine: EchoEngine, is_sharing: bool, salt: bytes
) -> None:
    service = PredictionService(preparer, engine, replace(ROOM, is_sharing_caches=is_sharing))
    prediction = await ask(service)
    prediction.owner = "key-1"
    assert await prediction.wait(5)
    assert [request.salt for request in engine.submitted] == [salt]
    await service.drain(0)


async def test_characters_of_several_tokens_come_whole(service: PredictionService) -> None:
    prediction = await ask(service, "é😀", max_tokens=12)
    await prediction.wait(5)
    assert prediction.log.outputs == ["é", "😀", "é", "😀"]


async def test_a_stop_string_ends_the_engine_request_and_never_shows(
    service: PredictionService, engine: EchoEngine
) -> None:
    prediction = await ask(service, "one STOP two ", max_tokens=100, stop=["STOP"])
    await prediction.wait(5)
    assert prediction.text == "one "
    assert prediction.finish_reason == "stop"
    assert prediction.usage.completion_tokens == len("one STOP")
    await until(lambda: engine.aborted == [prediction.id])


async def test_no_tokens_wanted_is_an_empty_answer(service: PredictionService, engine: EchoEngine) -> None:
    prediction = await ask(service, max_tokens=0)
    await prediction.wait(5)
    assert (prediction.status, prediction.text, prediction.finish_reason) == (Status.SUCCEEDED, "", "length")
    assert engine.submitted == []


async def test_a_refused_picture_fails_before_the_start(service: PredictionService) -> None:
    prediction = await service.create(
        single_turn("hi", "data:;base64,%%", param="input.image"), Generation(max_tokens=1)
    )
    await prediction.wait(5)
    assert prediction.status is Status.FAILED
    assert prediction.started is None
    assert prediction.error is not None
    assert (prediction.error.code, prediction.error.param) == ("invalid_image", "input.image")


@pytest.mark.parametrize(
    ("prompt", "code", "text"),
    [(CRASH_LATER, "engine_crash_poison", "crash"), (FAIL, "engine_numerical_error", ""), (DEFECT, "internal", "")],
)
async def test_failures_keep_their_code_and_the_output_so_far(
    service: PredictionService, prompt: str, code: str, text: str
) -> None:
    prediction = await ask(service, prompt, max_tokens=50)
    await prediction.wait(5)
    assert prediction.status is Status.FAILED
    assert prediction.error is not None
    assert (prediction.error.code, prediction.text) == (code, text)
    assert "secret" not in prediction.error.sentence


async def test_an_answer_goes_on_in_the_next_engine(service: PredictionService, engine: EchoEngine) -> None:
    engine.num_crashes_left = 0
    whole = await ask(service, CRASH_LATER, max_tokens=50)
    await whole.wait(5)
    engine.num_crashes_left = 1
    prediction = await ask(service, CRASH_LATER, max_tokens=50)
    await prediction.wait(5)
    assert (prediction.status, prediction.text) == (Status.SUCCEEDED, whole.text)
    assert prediction.usage == whole.usage
    assert [len(submit.begun[0] or []) for submit in engine.submitted if submit.begun] == [5]


async def test_an_engine_that_stays_down_is_told_of(service: PredictionService, engine: EchoEngine) -> None:
    engine.num_crashes_left, engine.token_s = 1, 0.01
    prediction = await ask(service, CRASH_LATER, max_tokens=50)
    await until(lambda: prediction.has_output)
    engine.failure = EngineCrashed("The engine crashed again and again.")
    await prediction.wait(5)
    assert prediction.status is Status.FAILED
    assert prediction.error is not None
    assert (prediction.error.code, prediction.text) == ("engine_crashed", "crash")


async def test_neighbours_of_the_one_that_brings_the_engine_down_go_on(
    service: PredictionService, engine: EchoEngine
) -> None:
    """It goes in alone the second time, so that they are told of one crash only, and go on where they were."""
    engine.token_s = 0.01
    others = [await ask(service, max_tokens=20) for _ in range(3)]
    culprit = await ask(service, CRASH_LATER, max_tokens=50)
    for prediction in (culprit, *others):
        await prediction.wait(5)
    assert culprit.error is not None
    assert culprit.error.code == "engine_crash_poison"
    assert [other.status for other in others] == [Status.SUCCEEDED] * 3
    begun = [submit.request_id for submit in engine.submitted if submit.begun]
    assert sorted(begun) == sorted(prediction.id for prediction in (culprit, *others))
    assert len({other.text for other in others}) == 1


async def test_cancel_stops_the_engine_at_the_next_step(service: PredictionService, engine: EchoEngine) -> None:
    engine.token_s = 0.01
    prediction = await ask(service, max_tokens=1000)
    await until(lambda: prediction.has_output)
    assert service.cancel(prediction) is True
    assert prediction.status is Status.CANCELED
    await until(lambda: engine.aborted == [prediction.id])
    num_tokens = engine.num_tokens
    await asyncio.sleep(0.05)
    assert engine.num_tokens == num_tokens
    assert service.cancel(prediction) is False
    assert prediction.text


async def test_cancel_in_the_first_moment_and_while_preparing(service: PredictionService, engine: EchoEngine) -> None:
    at_once = await ask(service)
    service.cancel(at_once)
    preparing = await ask(service, SLOW_PREPARE)
    await asyncio.sleep(0.05)
    service.cancel(preparing)
    await until(lambda: service.num_active == 0)
    assert at_once.status is preparing.status is Status.CANCELED
    assert engine.submitted == []


async def test_a_thousand_raced_cancels_leave_one_end_and_nothing_running(
    service: PredictionService, engine: EchoEngine
) -> None:
    for round_number in range(20):
        predictions = [await ask(service, max_tokens=3) for _ in range(50)]
        for steps, prediction in enumerate(predictions):
            for _ in range((steps * 7 + round_number) % 5):
                await asyncio.sleep(0)
            service.cancel(prediction)
        await asyncio.gather(*(prediction.wait(5) for prediction in predictions))
        assert all(prediction.status.is_terminal for prediction in predictions)
        await until(lambda: service.num_active == 0)
    assert engine.running == set()
    assert not service.is_busy


async def test_the_last_reader_to_leave_cancels(service: PredictionService, engine: EchoEngine) -> None:
    engine.token_s = 0.01
    prediction = await ask(service, max_tokens=1000)
    with service.attached(prediction):
        with service.attached(prediction):
            await until(lambda: prediction.has_output)
        assert prediction.status is Status.PROCESSING
    assert prediction.status is Status.CANCELED


async def test_a_detached_prediction_goes_on_without_readers(service: PredictionService) -> None:
    prediction = await ask(service, is_detached=True)
    with service.attached(prediction):
        pass
    await prediction.wait(5)
    assert prediction.status is Status.SUCCEEDED


async def test_an_id_means_one_request(service: PredictionService, preparer: EchoPreparer) -> None:
    first = await ask(service, prediction_id="mine", fingerprint=b"1")
    assert await ask(service, prediction_id="mine", fingerprint=b"1") is first
    await first.wait(5)
    await until(lambda: service.num_active == 0)
    assert await ask(service, prediction_id="mine", fingerprint=b"1") is first
    assert await service.get("mine") is first
    with pytest.raises(Conflict):
        await ask(service, prediction_id="mine", fingerprint=b"2")
    with pytest.raises(NotFound):
        await service.get("yours")
    assert preparer.num_prepared == 1


async def test_an_id_is_its_owners(service: PredictionService, engine: EchoEngine) -> None:
    mine, yours = [await ask(service, f"{owner} ", prediction_id="x", owner=owner) for owner in ("me", "you")]
    assert await mine.wait(5)
    assert await yours.wait(5)
    assert (await service.get("x", "me"), await service.get("x", "you")) == (mine, yours)
    assert (mine.text[:3], yours.text[:4]) == ("me ", "you ")
    assert len({request.request_id for request in engine.submitted}) == 2
    await service.delete(yours)
    assert (await service.find("x", "me"), await service.find("x", "you"), await service.find("x")) == (
        mine,
        None,
        None,
    )


async def test_what_does_not_fit_is_refused_and_what_was_let_in_is_answered(
    preparer: EchoPreparer, engine: EchoEngine
) -> None:
    engine.token_s = 0.005
    service = PredictionService(preparer, engine, ServiceLimits(max_running=1, max_waiting=3))
    taken = [await ask(service) for _ in range(4)]
    for _ in range(16):
        with pytest.raises(Overloaded) as refusal:
            await ask(service)
        assert refusal.value.retry_after_s
    assert service.is_busy
    await asyncio.gather(*(prediction.wait(5) for prediction in taken))
    assert {prediction.text for prediction in taken} == {"hello hello "}
    await until(lambda: service.num_active == 0)
    await service.drain(0)


async def test_a_prediction_has_a_deadline_whether_it_runs_or_waits(preparer: EchoPreparer, engine: EchoEngine) -> None:
    engine.token_s = 0.01
    service = PredictionService(preparer, engine, ServiceLimits(max_running=1, timeout_s=1.5))
    asked = [await ask(service, max_tokens=100_000) for _ in range(3)]
    await until(lambda: service._workshop.gate.num_waiting == 1)
    assert [await prediction.wait(30) for prediction in asked] == [True] * 3
    assert {prediction.error and prediction.error.code for prediction in asked} == {"deadline_exceeded"}
    assert asked[0].text
    await until(lambda: asked[0].id in engine.aborted and not engine.running)
    await service.drain(0)


async def test_drain_takes_nothing_new_finishes_the_short_and_fails_the_long(
    preparer: EchoPreparer, engine: EchoEngine
) -> None:
    engine.token_s = 0.01
    service = PredictionService(preparer, engine, ROOM)
    short, long = await ask(service, max_tokens=5), await ask(service, max_tokens=1000)
    draining = asyncio.create_task(service.drain(2.0))
    await asyncio.sleep(0)
    with pytest.raises(Draining) as refusal:
        await ask(service)
    assert refusal.value.retry_after_s
    await draining
    assert short.status is Status.SUCCEEDED
    assert long.status is Status.FAILED
    assert long.error is not None
    assert long.error.code == "draining"
    assert service.num_active == 0
    assert engine.running == set()


async def test_a_failure_that_passes_is_run_anew_under_its_id(service: PredictionService) -> None:
    first = await ask(service, PASSING_FAILURE, prediction_id="one", fingerprint=b"f")
    await first.wait(5)
    assert first.error is not None
    assert first.error.is_retryable
    with pytest.raises(Conflict):
        await ask(service, PASSING_FAILURE, prediction_id="one", fingerprint=b"other")
    await until(lambda: service.num_active == 0)
    second = await ask(service, PASSING_FAILURE, prediction_id="one", fingerprint=b"f")
    assert second is not first
    await second.wait(5)
    assert second.status is Status.SUCCEEDED
    assert await service.get("one") is second


async def test_a_place_is_taken_until_its_thread_is_free(preparer: EchoPreparer, engine: EchoEngine) -> None:
    service = PredictionService(preparer, engine, ServiceLimits(max_running=1, max_waiting=0))
    left = await ask(service, SLOW_PREPARE)
    await until(lambda: bool(service._preparation._running))
    await asyncio.sleep(0.05)
    num_bytes = service._line.num_bytes
    assert num_bytes
    service.cancel(left)
    await until(lambda: service.num_active == 0)
    assert service._line.num_bytes == num_bytes, "its picture is still in memory"
    with pytest.raises(Overloaded):
        await ask(service)
    await until(lambda: not service.is_busy)
    assert await (await ask(service)).wait(5)
    await service.drain(0)


async def test_pictures_that_are_fetched_hold_up_no_others(preparer: EchoPreparer, engine: EchoEngine) -> None:
    service = PredictionService(preparer, engine, ServiceLimits(max_running=8, prepare_threads=1))
    slow = await service.create(single_turn(SLOW_PREPARE, "http://example.com/a.png"), Generation(max_tokens=1))
    await until(lambda: bool(service._preparation._running))
    quick = await ask(service)
    await quick.wait(5)
    assert quick.status is Status.SUCCEEDED
    assert not slow.status.is_terminal
    await service.drain(5)
