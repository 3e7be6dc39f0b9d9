"""Tells webhooks what happens to predictions: the news while they run, once each; their end from the outbox, for days.

Belongs to the event loop; what blocks has threads. Knows no protocol: `renders` says, by a prediction's origin, what is
sent of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final, TypeVar
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from lavatube.predictions.news import NEWS_TIMEOUT_S, News, Render
from lavatube.predictions.outbox import Delivery, Outbox, new_delivery_id
from lavatube.predictions.postman import TIMEOUT_S, Message, Postman
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.server_secrets import Secrets
from lavatube.predictions.webhook import DeliveryState, HookEvent, Outcome, after

logger = logging.getLogger(__name__)

POLL_S: Final = 5.0
MAX_AT_ONCE: Final = 64
MAX_PER_HOST: Final = 4
THREADS: Final = 32
CLOSE_POLL_S: Final = 0.05
HOURLY_S: Final = 3600.0

Result = TypeVar("Result")


class Webhooks:
    """An observer of predictions, between `start` and `close`."""

    def __init__(self, postman: Postman, outbox: Outbox, secrets: Secrets, renders: Mapping[str, Render]) -> None:
        self._postman = postman
        self._outbox = outbox
        self._secrets = secrets
        self._renders = renders
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self._news: dict[str, News] = {}
        self._hosts: dict[str, _Host] = {}
        self._mine: set[str] = set()
        self._last_words: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._forgot_s = float("-inf")
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Deliver what is due, also what an earlier process has left."""
        self._running = asyncio.create_task(self._run())

    async def close(self, grace_s: float) -> None:
        """What has ended is told, as long as that takes no longer than this; the rest stays in the outbox."""
        deadline = time.monotonic() + grace_s
        while (self._mine or self._tasks) and time.monotonic() < deadline:
            await asyncio.sleep(CLOSE_POLL_S)
        if self._mine or self._tasks:
            logger.info("webhooks: %d are left for the next start", len(self._mine) + len(self._tasks))
        everything = [*self._tasks.values(), *(news.task for news in self._news.values())]
        everything += [] if self._running is None else [self._running]
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def created(self, prediction: Prediction) -> None:
        if prediction.webhook is not None:
            news = News(prediction, prediction.webhook, self._render, self._send)
            self._news[prediction.key] = news
            news.task.add_done_callback(lambda _: self._news.pop(prediction.key))

    def started(self, prediction: Prediction) -> None:
        self._hear(prediction)

    def written(self, prediction: Prediction) -> None:
        self._hear(prediction)

    def ended(self, prediction: Prediction) -> None:
        """From here on nothing but its end is sent, which is in the outbox by now."""
        self._hear(prediction)
        if (delivery_id := self._last_words.pop(prediction.key, None)) is not None:
            self._mine.add(delivery_id)
            self._wake.set()

    def released(self, prediction: Prediction) -> None:
        """Another server tells what there is to tell."""
        self._last_words.pop(prediction.key, None)
        if (news := self._news.get(prediction.key)) is not None:
            news.task.cancel()

    def last_word(self, prediction: Prediction) -> Delivery | None:
        """What is to be told of a prediction that has ended, to be stored together with that end."""
        hook = prediction.webhook
        if hook is None or not hook.wants(HookEvent.COMPLETED):
            return None
        # This process sends it at once. Another one, or this one's successor, waits until old news have arrived.
        others_s = time.time() + NEWS_TIMEOUT_S
        delivery_id = self._last_words[prediction.key] = new_delivery_id()
        body = self._render(prediction)
        return Delivery(delivery_id, prediction.key, prediction.owner, hook.url, body, not_before_s=others_s)

    def _render(self, prediction: Prediction) -> bytes:
        return self._renders[prediction.origin](prediction)

    def _hear(self, prediction: Prediction) -> None:
        news = self._news.get(prediction.key)
        if news is not None:
            news.arrival.set()

    async def _run(self) -> None:
        """While the database can't be used, it waits."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self._round()
            except SQLAlchemyError as error:
                logger.warning("the outbox can't be used (%s); webhooks wait", type(error).__name__)
                wait_s = POLL_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def _round(self) -> float | None:
        """Take on what is due. Returns seconds until more may be; None: when something wakes us."""
        await self._forget_old()
        room = MAX_AT_ONCE - len(self._tasks)
        if room <= 0:
            return None
        mine = tuple(islice(self._mine, room))
        for delivery in await self._in_thread(lambda: self._outbox.claim(room, mine)):
            self._mine.discard(delivery.id)
            if delivery.id not in self._tasks:
                self._tasks[delivery.id] = asyncio.create_task(self._deliver(delivery))
        self._mine.difference_update(mine)  # another server has taken them
        next_s = await self._in_thread(self._outbox.next_s)
        return POLL_S if next_s is None else min(next_s, POLL_S)

    async def _forget_old(self) -> None:
        if time.monotonic() - self._forgot_s > HOURLY_S:
            self._forgot_s = time.monotonic()
            await self._in_thread(self._outbox.forget_old)

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt to tell one end, after whatever news of it is under way."""
        try:
            if (news := self._news.get(delivery.prediction_key)) is not None:
                await asyncio.wait({news.task})
            outcome = await self._send(delivery.owner, delivery.id, delivery.url, delivery.body, TIMEOUT_S)
            state, wait_s = after(outcome, delivery.attempts + 1)
            level = logging.INFO if state is DeliveryState.DELIVERED else logging.WARNING
            logger.log(level, "webhook %s of %s: %s, %s", delivery.id, delivery.prediction_key, outcome.status, state)
            await self._in_thread(lambda: self._outbox.settle(delivery, state, wait_s, outcome.status))
        except SQLAlchemyError as error:
            logger.warning("webhook %s: not noted down (%s); it is told again", delivery.id, type(error).__name__)
        finally:
            del self._tasks[delivery.id]
            self._wake.set()

    async def _send(self, owner: str, hook_id: str, url: str, body: bytes, timeout_s: float) -> Outcome:
        """One signed POST; not more than a few at once to one host."""
        secret = await self._in_thread(lambda: self._secrets.webhook(owner))
        message = Message(hook_id, url, body, secret)
        async with self._place(urlsplit(url).netloc):
            return await self._in_thread(lambda: self._postman.post(message, timeout_s))

    @asynccontextmanager
    async def _place(self, host: str) -> AsyncIterator[None]:
        gate = self._hosts.setdefault(host, _Host())
        gate.num_users += 1
        try:
            async with gate.places:
                yield
        finally:
            gate.num_users -= 1
            if not gate.num_users:
                del self._hosts[host]

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Host:
    """The places of one host, kept as long as anybody wants one."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_PER_HOST)
        self.num_users = 0
