"""What one prediction's webhook is told while it runs: in order, at its pace, each once, and nothing after the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from lavatube.predictions.outbox import new_delivery_id
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.webhook import HookEvent, Outcome, Pace, Webhook

logger = logging.getLogger(__name__)

NEWS_TIMEOUT_S: Final = 5.0  # the end waits for news that are under way

Render = Callable[[Prediction], bytes]
# owner, webhook-id, URL, body, seconds
Send = Callable[[str, str, str, bytes, float], Coroutine[Any, Any, Outcome]]


class News:
    """`arrival` is set whenever something has happened. `task` is over soon after the prediction is."""

    def __init__(self, prediction: Prediction, hook: Webhook, render: Render, send: Send) -> None:
        self._prediction = prediction
        self._hook = hook
        self._render = render
        self._send = send
        self._has_started = prediction.started is not None  # on a server before this one, which has told it
        self._pace = Pace()
        self.arrival = asyncio.Event()
        self.task = asyncio.create_task(self._tell())

    @property
    def _is_over(self) -> bool:
        return self._prediction.status.is_terminal

    async def _tell(self) -> None:
        """The start, then the output whenever there is enough of it."""
        while not self._is_over and self._prediction.started is None:
            await self._hear()
        if not self._is_over and not self._has_started and self._hook.wants(HookEvent.START):
            await self._post(self._render(self._prediction), is_output=False)
        if not self._hook.wants(HookEvent.OUTPUT):
            return
        while not self._is_over:
            await self._hear()
            await self._pause()
            if self._prediction.has_output and not self._is_over:
                await self._post_output()

    async def _hear(self) -> None:
        """Until something has happened since the last time."""
        await self.arrival.wait()
        self.arrival.clear()

    async def _pause(self) -> None:
        """Until something may be sent, or nothing is to be sent any more."""
        while self._pace.wait_s and not self._is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.wait_s):
                    await self._hear()

    async def _post_output(self) -> None:
        body = self._render(self._prediction)
        if self._pace.is_worth(len(body)):
            await self._post(body, is_output=True)
        else:
            self._pace.looked()

    async def _post(self, body: bytes, *, is_output: bool) -> None:
        self._pace.looked(len(body) if is_output else 0)
        hook_id = new_delivery_id()
        outcome = await self._send(self._prediction.owner, hook_id, self._hook.url, body, NEWS_TIMEOUT_S)
        if not outcome.is_success:
            logger.info("webhook %s: news of %s were not taken: %s", hook_id, self._prediction.id, outcome.status)
