"""The front's end of the engine: requests in, events out, whatever happens to the worker process behind it.

Owns the worker's lives one after the other, and the streams that are open on the present one. When it dies, every
stream gets its error first; then the next life begins. Knows no torch and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, assert_never

import msgspec

from lavatube.engine.process import WorkerProcess, start_worker, worker_command
from lavatube.engine.supervisor import EngineState, Patience, RestartPolicy, Watchdog
from lavatube.engine.wire import (
    Abort,
    Done,
    Event,
    Failed,
    Heartbeat,
    Load,
    LoadFailed,
    Loading,
    Ready,
    RequestEvent,
    Submit,
    Tokens,
)
from lavatube.errors import Conflict, Draining, EngineCrashed, InternalError, LavatubeError, NotReady, from_code

logger = logging.getLogger(__name__)

LAST_WORDS_S = 0.5
"""How long a worker's remaining events are read once its process has ended, or the other way round."""

Inbox = asyncio.Queue[RequestEvent | LavatubeError]


class EngineClient:
    """One engine for the life of the front. All of it runs on one event loop."""

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        threads: int = 0,
        restarts: RestartPolicy | None = None,
        patience: Patience = Patience(),
    ) -> None:
        """`command` starts a worker; by default ours, with so many CPU threads."""
        self.state = EngineState.STARTING
        self.ready: Ready | None = None
        self.loading: Loading | None = None
        self.heartbeat: Heartbeat | None = None
        self.failure: LavatubeError | None = None
        self._command = list(command) if command is not None else worker_command(threads)
        self._restarts = restarts or RestartPolicy()
        self._patience = patience
        self._watchdog = Watchdog(patience, time.monotonic())
        self._load: Load | None = None
        self._worker: WorkerProcess | None = None
        self._streams: dict[str, Inbox | None] = {}  # None: closed here, its end is not yet told by the worker
        self._is_settled = asyncio.Event()  # READY, FAILED or STOPPED
        self._supervision: asyncio.Task[None] | None = None

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    def launch(self) -> None:
        """Start the worker, which imports what it needs while the order to load is still being prepared."""
        if self._supervision is None:
            self._supervision = asyncio.create_task(self._supervise())

    async def start(self, load: Load) -> None:
        """Load this checkpoint, now and after every restart. Returns at once; `wait_ready` waits."""
        assert self._load is None, "an engine is started once"
        self._load = load
        self.launch()
        self._order_load()

    async def wait_ready(self) -> Ready:
        """Raises: what made the engine fail; Draining if it was stopped."""
        while self.ready is None:
            await self._is_settled.wait()
            if self.state is not EngineState.READY:
                raise self.failure or Draining("The engine was stopped.")
        return self.ready

    async def submit(self, request: Submit) -> AsyncGenerator[RequestEvent]:
        """The events of one request, up to its Done or Failed. To close the iterator is to abort.

        Raises: NotReady; EngineCrashed if the worker dies meanwhile; Draining; Conflict for an id in use.
        """
        worker = self._worker
        if self.state is not EngineState.READY or worker is None:
            raise self._refusal()
        if request.request_id in self._streams:
            raise Conflict(f"Request {request.request_id} is running already.", param="request_id")
        inbox: Inbox = asyncio.Queue()
        self._streams[request.request_id] = inbox
        try:
            await worker.send(request)
            while True:
                item = await inbox.get()
                if isinstance(item, LavatubeError):
                    raise item
                yield item
                if isinstance(item, Done | Failed):
                    return
        finally:
            if self._streams.get(request.request_id) is inbox:
                self._streams[request.request_id] = None
                worker.post(Abort(request.request_id))

    async def stop(self) -> None:
        """End the worker; streams that are still open end with Draining."""
        if self.state is not EngineState.STOPPED:
            self._move(EngineState.STOPPED)
            self._fail_streams(Draining("The server is shutting down."))
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})

    async def _supervise(self) -> None:
        """One worker's life after the other, until that makes no sense any more."""
        while True:
            cause = await self._live()
            if isinstance(cause, EngineCrashed):
                delay_s = self._restarts.delay_after_failure(time.monotonic())
            else:
                delay_s = None  # the same again would end the same
            if delay_s is None:
                logger.error("the engine has failed for good: %s", cause.message)
                self._move(EngineState.FAILED)
                return
            logger.info("the engine starts again in %.0f s", delay_s)
            await asyncio.sleep(delay_s)
            self._move(EngineState.STARTING)

    async def _live(self) -> LavatubeError:
        """One life; returns why it ended, when all streams know."""
        self._watchdog = Watchdog(self._patience, time.monotonic())
        try:
            async with start_worker(self._command, self._patience.start_s) as worker:
                self._worker = worker
                self._order_load()
                try:
                    cause = await self._end_of(worker)
                    worker.kill()
                    self._bury(cause)
                finally:
                    self._worker = None
        except EngineCrashed as error:
            cause = error
            self._bury(cause)
        return cause
