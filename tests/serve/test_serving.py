"""Requests that come before there is a model: refused, or in line until there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lavatube.errors import Draining, NotReady
from lavatube.predictions.events import Status, Usage
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.service import PredictionService
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.serving import Serving
from tests.predictions.fakes import EchoEngine, EchoPreparer


class Start:
    """A server on its way, with room for two in line."""

    def __init__(self, max_queued: int = 2) -> None:
        self.phase = Phase.PROVISIONING
        self.serving = Serving(self._health, lambda: None, max_queued)

    def _health(self) -> HealthView:
        return HealthView(self.phase, "echo", datetime.now(UTC), 0.0)

    async def ask(self, count: int) -> list[asyncio.Task[PredictionService]]:
        """So many requests that have come as far as they can."""
        tasks = [asyncio.create_task(self.serving.open_service()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[PredictionService]:
    preparer = EchoPreparer(tmp_path)
    service = PredictionService(preparer, EchoEngine().knows(preparer), ServiceLimits(max_running=1, max_waiting=1))
    yield service
    await service.drain(0)


async def test_nobody_waits_unless_that_is_wished() -> None:
    with pytest.raises(NotReady):
        await Start(max_queued=0).serving.open_service()


async def test_who_waits_is_let_in_before_everything_is_ready(service: PredictionService) -> None:
    start = Start()
    tasks = await start.ask(2)
    assert not any(task.done() for task in tasks)
    start.serving.open(service)
    assert await asyncio.gather(*tasks) == [service, service]
    assert start.phase is Phase.PROVISIONING


async def test_one_too_many_is_refused() -> None:
    start = Start()
    tasks = await start.ask(2)
    with pytest.raises(NotReady):
        await start.serving.open_service()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert start.serving.num_queued == 0


@pytest.mark.parametrize(("phase", "error"), [(Phase.FAILED, NotReady), (Phase.DRAINING, Draining)])
async def test_who_waits_hears_of_the_end(phase: Phase, error: type[Exception]) -> None:
    start = Start()
    (task,) = await start.ask(1)
    start.phase = phase
    start.serving.wake()
    with pytest.raises(error):
        await task


async def test_who_cancels_what_ends_just_now_sees_its_end(service: PredictionService) -> None:
    """Of one that is journaled the end is decided a moment before it is shown."""
    start = Start()
    start.serving.open(service)
    prediction = Prediction("one", is_journaled=True)
    prediction.start(1, 0)
    prediction.end_choice(0, "stop")
    prediction.succeed(Usage())
    assert not prediction.status.is_terminal
    cancelling = asyncio.create_task(start.serving.end(prediction))
    await asyncio.sleep(0)
    assert not cancelling.done()
    prediction.publish()
    await cancelling
    assert prediction.status is Status.SUCCEEDED
