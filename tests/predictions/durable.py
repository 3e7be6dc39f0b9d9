"""Servers that share a database, without their HTTP: on one event loop, to be killed by a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, select

from lavatube.predictions.database import open_database
from lavatube.predictions.journal import PREDICTIONS
from lavatube.predictions.leases import LEASE_S, Leases
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.outbox import DELIVERIES, Delivery, Outbox
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.scribe import JournalLimits, Scribe
from lavatube.predictions.service import PredictionService
from lavatube.predictions.webhook import Webhook
from lavatube.prompt.chat import Generation, single_turn
from tests.predictions.fakes import PNG, EchoEngine, EchoPreparer

HOOK = Webhook("https://example.com/hook")


class Clock:
    """The monotonic clock of all servers of a test."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def last_word(prediction: Prediction) -> Delivery | None:
    hook = prediction.webhook
    body = f"{prediction.status} {prediction.text}".encode()
    return None if hook is None else Delivery(f"msg-{prediction.key}", prediction.key, "", hook.url, body)


class DurableServer:
    """`token_s` is how long its engine takes for a token. It adopts what is nobody's when it is told to."""

    def __init__(
        self,
        url: str,
        folder: Path,
        clock: Clock,
        *,
        token_s: float = 0.0,
        limits: ServiceLimits | None = None,
        journal: JournalLimits | None = None,
        model: str = "",
    ) -> None:
        self.database = open_database(url)
        self.leases = Leases(self.database, clock, host="")
        self.outbox = Outbox(self.database, holder=lambda: self.leases.holder)
        self.scribe = Scribe(self.database, self.outbox, self.leases, last_word=last_word, model=model, limits=journal)
        self.preparer = EchoPreparer(folder)
        self.engine = EchoEngine(token_s).knows(self.preparer)
        self.service = PredictionService(self.preparer, self.engine, limits or ServiceLimits(), scribe=self.scribe)
        self._clock = clock

    async def ask(self, prompt: str = "hello ", max_tokens: int = 12, **options: object) -> Prediction:
        options = {"is_detached": True, "is_journaled": True, **options}
        return await self.service.create(single_turn(prompt, PNG), Generation(max_tokens=max_tokens), **options)

    async def take_over(self) -> None:
        """What dead servers had, once they have been silent for long enough."""
        await self.scribe.keep_up()
        await self.service.adopt()
        self._clock.now_s += LEASE_S + 1
        await self.scribe.keep_up()
        await self.service.adopt()

    async def kill(self) -> None:
        """It does nothing more; what it has not written yet is written, as when it had lived a moment longer."""
        for job in self.service._jobs.values():
            job.hand_over()
        await self.service._until_idle()
        self.service._preparation.close()
        await self.scribe._writer.close()
        self.database.dispose()

    async def stop(self, grace_s: float = 0) -> None:
        await self.service.drain(grace_s)
        await self.scribe.close()
        self.database.dispose()


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0.005)


NewServer = Callable[..., DurableServer]


def rows(engine: Engine) -> dict[str, str]:
    """Of all predictions: key and status."""
    with engine.connect() as connection:
        return dict(connection.execute(select(PREDICTIONS.c.key, PREDICTIONS.c.status)).all())


def told(engine: Engine) -> list[tuple[str, bytes]]:
    """Of all ends: the prediction's key and what its webhook is told."""
    with engine.connect() as connection:
        found = connection.execute(select(DELIVERIES.c.prediction_key, DELIVERIES.c.body))
        return [(key, bytes(body)) for key, body in found]
