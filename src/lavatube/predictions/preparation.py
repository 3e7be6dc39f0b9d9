"""Requests become what the engine needs, in threads: a few at once, those that fetch pictures apart from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Protocol

from lavatube.predictions.gate import Gate
from lavatube.predictions.line import Ticket
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.records import Request
from lavatube.prompt.chat import Chat, Generation
from lavatube.prompt.prepare import Estimate, Prepared
from lavatube.prompt.tokenizer import Tokenizer


class Prepares(Protocol):
    """What is asked of prompt.prepare.Preparer: blocking, from several threads at once."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prepare(self, chat: Chat, generation: Generation) -> Prepared: ...

    def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate: ...


class Preparation:
    """Belongs to the event loop that it is used from."""

    def __init__(self, preparer: Prepares, num_threads: int) -> None:
        self._preparer = preparer
        self._gate, self._fetch_gate = Gate(num_threads), Gate(num_threads)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
        self._fetchers = ThreadPoolExecutor(num_threads, thread_name_prefix="fetch")
        self._running: dict[Prediction, Future[Prepared]] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return self._preparer.tokenizer

    async def prepare(self, prediction: Prediction, request: Request, ticket: Ticket) -> Prepared:
        """When it is its turn. Raises: RequestErrors, Overloaded."""
        has_urls = _has_urls(request.chat)
        await ticket.pass_through(self._fetch_gate if has_urls else self._gate)
        threads = self._fetchers if has_urls else self._threads
        run = copy_context().run  # the log tells whose
        future = threads.submit(run, self._preparer.prepare, request.chat, request.generation)
        self._running[prediction] = future
        del request
        prepared = await asyncio.wrap_future(future)
        del self._running[prediction]
        return prepared

    def leave(self, prediction: Prediction, on_free: Callable[[], None]) -> None:
        """It is over. `on_free` is called once its thread is free: what can't be cancelled still occupies it."""
        future = self._running.pop(prediction, None)
        if future is None or future.cancel() or future.done():
            on_free()
            return
        loop = asyncio.get_running_loop()

        def on_thread_end(_: Future[Prepared]) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended before the thread
                loop.call_soon_threadsafe(on_free)

        future.add_done_callback(on_thread_end)

    async def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """What a conversation would cost, with pictures of these sizes. Raises: RequestErrors."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._preparer.estimate, chat, sizes)

    def close(self) -> None:
        """What runs is not waited for."""
        for threads in (self._threads, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)


def _has_urls(chat: Chat) -> bool:
    """Requests that wait for some picture's host have threads of their own."""
    return any(isinstance(image.source, str) and image.source[:4].lower() == "http" for image in chat.images)
