"""What the routes reach: the state of the server, and the predictions once there is a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from lavatube.errors import NotFound
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.service import PredictionService
from lavatube.serve.health import HealthView

END_WAIT_S: Final = 5.0


@dataclass(slots=True)
class Serving:
    """Made before there is a model; front.py puts the service in once there is one.

    `health` is asked at each request. `shutdown` begins a graceful end and returns at once.
    """

    health: Callable[[], HealthView]
    shutdown: Callable[[], None]
    max_queued: int = 0
    """How many creates wait for a server that starts, instead of being refused."""
    service: PredictionService | None = None
    weights: str = ""
    """The digest of their set of files, once they are known."""
    num_queued: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self, service: PredictionService) -> None:
        """Predictions are taken from now on, if need be by an engine whose weights still come in."""
        self.service = service
        self.wake()

    def wake(self) -> None:
        """Have those who wait look again: the server's state has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def ready_service(self) -> PredictionService:
        """Raises NotReady or Draining, with the reason and when to come back."""
        view = self.health()
        if self.service is None or not (view.is_ready or (self.max_queued and view.is_starting)):
            raise view.refusal()
        return self.service

    async def open_service(self) -> PredictionService:
        """For a new prediction: waits for a server that starts, where that is wished. Raises: as `ready_service`."""
        if self.num_queued < self.max_queued:
            self.num_queued += 1
            try:
                while self.service is None and self.health().is_starting:
                    await self._changed.wait()
            finally:
                self.num_queued -= 1
        return self.ready_service()

    async def service_for(
        self, prediction_id: str | None, owner: str = ""
    ) -> tuple[PredictionService, Prediction | None]:
        """For a create, and the prediction whose id it repeats: that is answered whether the server is ready or not."""
        service = self.service or await self.open_service()
        known = None if prediction_id is None else await service.find(prediction_id, owner)
        if known is None or known.is_worth_retrying:
            service = await self.open_service()
        return service, known

    def knowing_service(self) -> PredictionService:
        """For what there is already, ready or not. Raises: NotReady while nobody can know."""
        if self.service is None:
            raise self.health().refusal()
        return self.service

    async def find(self, prediction_id: str, owner: str = "") -> Prediction:
        """An existing prediction. Raises: NotFound; NotReady while nobody can know."""
        return await self.knowing_service().get(prediction_id, owner)

    def attached(self, prediction: Prediction) -> AbstractContextManager[None]:
        """See PredictionService.attached."""
        assert self.service is not None, "a prediction comes from a service"
        return self.service.attached(prediction)

    async def delete(self, prediction: Prediction) -> None:
        """See PredictionService.delete."""
        assert self.service is not None, "a prediction comes from a service"
        await self.service.delete(prediction)

    async def attachment(self, prediction: Prediction, name: str) -> str | None:
        """See PredictionService.attachment."""
        assert self.service is not None, "a prediction comes from a service"
        return await self.service.attachment(prediction, name)

    async def end(self, prediction: Prediction) -> None:
        """Cancel it, unless it ends by itself at this moment; either end is to be seen when this returns."""
        if not await self.knowing_service().cancel_anywhere(prediction):
            await prediction.wait(END_WAIT_S)

    async def cancel(self, prediction_id: str, owner: str = "") -> None:
        """Raises NotFound, also for one that has ended."""
        prediction = await self.find(prediction_id, owner)
        assert self.service is not None
        if not await self.service.cancel_anywhere(prediction):
            raise NotFound(
                f"This prediction has ended: {prediction.status}.",
                param="id",
                remedy="There is nothing left to cancel.",
            )
