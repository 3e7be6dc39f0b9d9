"""The front's end of the engine: requests in, events out, whatever happens to the worker process behind it.

Owns the worker's lives one after the other, and the streams that are open on the present one. When it dies, every
stream gets its error first; then the next life begins. Knows no torch and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec

from lavatube.engine.frames import frame
from lavatube.engine.process import WorkerProcess, start_worker, worker_command
from lavatube.engine.streams import Streams
from lavatube.engine.supervisor import EngineState, Patience, RestartPolicy, Watchdog
from lavatube.engine.wire import (
    Abort,
    Done,
    Failed,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Ready,
    RequestEvent,
    Submit,
    Tokens,
    is_last,
)
from lavatube.errors import (
    Draining,
    EngineCrashed,
    InternalError,
    LavatubeError,
    NotReady,
    ServiceError,
    from_code,
)

logger = logging.getLogger(__name__)

TRY_AGAIN: Final = "Try again in a moment."
LAST_WORDS_S: Final = 0.5
"""How long a worker's remaining events are read once its process has ended, or the other way round."""


class EngineClient:
    """One engine for the life of the front. All of it runs on one event loop."""

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        threads: int = 0,
        restarts: RestartPolicy | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`command` starts a worker; by default ours, with so many CPU threads."""
        self.state = EngineState.STARTING
        self.ready: Ready | None = None
        self.loading: Loading | None = None
        self.loaded: Loaded | None = None
        self.heartbeat: Heartbeat | None = None
        self.failure: LavatubeError | None = None
        self.num_restarts = 0
        self.late_tokens: Counter[int] = Counter()  # how many aborted answers had so many tokens computed afterwards
        self._command = list(command) if command is not None else worker_command(threads)
        self._restarts = restarts or RestartPolicy()
        self._patience = patience or Patience()
        self._watchdog = Watchdog(self._patience, time.monotonic())
        self._load: Load | None = None
        self._worker: WorkerProcess | None = None
        self._streams = Streams()
        self._is_settled = asyncio.Event()  # READY, FAILED or STOPPED
        self._is_loaded = asyncio.Event()  # or never will be
        self._verdict: LavatubeError | None = None
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

    def reorder(self, load: Load) -> None:
        """What the next life loads: that which this one has trailed is all here now."""
        self._load = load

    def give_up(self, cause: LavatubeError) -> None:
        """End the worker and start no other: what it waits for will not come."""
        self._verdict = cause
        if self._worker is not None:
            self._worker.kill()

    async def wait_loaded(self) -> Loaded:
        """Raises: as `wait_ready`."""
        while self.loaded is None:
            await self._is_loaded.wait()
            self._check_alive()
        return self.loaded

    async def wait_ready(self) -> Ready:
        """Raises: what made the engine fail; Draining if it was stopped."""
        while self.ready is None:
            await self._is_settled.wait()
            self._check_alive()
        return self.ready

    def _check_alive(self) -> None:
        if self.state in (EngineState.FAILED, EngineState.STOPPED):
            raise (self.failure or Draining("The engine was stopped.")).with_traceback(None)

    async def submit(self, request: Submit) -> AsyncGenerator[RequestEvent, None]:
        """The events of one request, up to its last Done or Failed. To close the iterator is to abort.

        Tokens that came while nobody asked are one event.

        Raises: NotReady; EngineCrashed if the worker dies meanwhile; Draining; Conflict for an id in use.
        """
        worker = self._worker
        if self.state is not EngineState.READY or worker is None:
            raise self._refusal()
        data = frame(request)  # what can't be told is refused before anything waits for its end
        inbox = self._streams.open(request.request_id)
        try:
            await worker.send(data)
            while True:
                item = await inbox.take()
                if isinstance(item, LavatubeError):
                    raise item.with_traceback(None)
                yield item
                if is_last(item):
                    return
        finally:
            if self._streams.close(request.request_id, inbox):
                worker.post(Abort(request.request_id, sent_s=time.monotonic()))

    def abort_choice(self, request_id: str, choice: int) -> None:
        """End one of a request's several answers; the others go on."""
        if self._worker is not None and self._streams.is_open(request_id):
            self._worker.post(Abort(request_id, choice, time.monotonic()))

    async def stop(self) -> None:
        """End the worker; streams that are still open end with Draining."""
        if self.state is not EngineState.STOPPED:
            self.ready = self.loading = self.loaded = self.heartbeat = None
            self._move(EngineState.STOPPED)
            self._streams.fail(Draining("The server is shutting down.", remedy=TRY_AGAIN))
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})

    async def _supervise(self) -> None:
        """One worker's life after the other, until another would end the same."""
        try:
            while (delay_s := await self._live()) is not None:
                await asyncio.sleep(delay_s)
                self.num_restarts += 1
                self._move(EngineState.STARTING)
        except Exception:
            logger.exception("the supervision of the engine broke")
            self._bury(InternalError("The engine is no longer supervised."))

    async def _live(self) -> float | None:
        """One life. Returns seconds to wait before the next, None for never."""
        self._watchdog = Watchdog(self._patience, time.monotonic())
        if self._verdict is not None:
            return self._bury(self._verdict)
        try:
            async with start_worker(self._command) as worker:
                self._worker = worker
                self._order_load()
                cause = await self._end_of(worker)
                worker.kill()
                return self._bury(cause)  # here, not below: the process's end can take a while
        except OSError:
            logger.exception("the engine's process can't be started")
            return self._bury(EngineCrashed("The engine's process can't be started."))
        finally:
            self._worker = None

    async def _end_of(self, worker: WorkerProcess) -> LavatubeError:
        """Waits for what comes first: the end of its process, of its connection, or of our patience."""
        talk = asyncio.create_task(self._listen(worker))
        exit_ = asyncio.create_task(worker.exited())
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({talk, exit_, watch}, return_when=asyncio.FIRST_COMPLETED)
            if self._verdict is not None:
                return self._verdict
            if watch.done():
                return EngineCrashed(f"The engine hung: {watch.result()}.", remedy=TRY_AGAIN)
            await asyncio.wait({talk, exit_}, timeout=LAST_WORDS_S)
            if talk.done() and (said := talk.result()):
                return said
            how = exit_.result() if exit_.done() else "it closed its connection"
            return EngineCrashed(f"The engine crashed: {how}.", remedy=TRY_AGAIN)
        finally:
            for task in (talk, exit_, watch):
                task.cancel()
            await asyncio.wait({talk, exit_, watch})

    async def _listen(self, worker: WorkerProcess) -> LavatubeError | None:
        """Until it hangs up; returns the error that it gave as the reason, if it gave one."""
        try:
            async for events in worker.receive():
                now_s = time.monotonic()
                for event in events:
                    self._watchdog.hear(event, now_s)
                    if isinstance(event, LoadFailed):
                        return from_code(event.code, event.message, remedy=event.remedy)
                    self._receive(event)
        except (ValueError, msgspec.DecodeError):
            logger.exception("the engine sent something that is no event")
            return EngineCrashed("The engine crashed: it sent something that is no event.", remedy=TRY_AGAIN)
        return None

    async def _watch(self) -> str:
        """Until there is a complaint; returns it."""
        while True:
            await asyncio.sleep(self._patience.check_every_s)
            is_ready, has_work = self.state is EngineState.READY, bool(self._streams)
            complaint = self._watchdog.complaint(time.monotonic(), is_ready=is_ready, has_work=has_work)
            if complaint:
                return complaint

    def _receive(self, event: RequestEvent | Ready | Loaded | Loading | Heartbeat) -> None:
        match event:
            case Tokens() | Done() | Failed():
                self._streams.put(event)
                if isinstance(event, Done) and event.reason == "abort":
                    self.late_tokens[event.late_tokens] += 1
            case Ready():
                self.ready, self.failure = event, None
                self._move(EngineState.READY)
                if event.is_trailing:
                    logger.info("engine: takes requests, and answers when all weights are here")
                else:
                    self._receive(Loaded(event.load_s))
            case Loaded():
                self.loaded = event
                self._is_loaded.set()
            case Loading():
                self.loading = event
            case Heartbeat():
                self.heartbeat = event

    def _order_load(self) -> None:
        """Send the order, once there is a worker and an order."""
        if self._worker and self._load and self.state is EngineState.STARTING:
            self._move(EngineState.LOADING)
            self._worker.post(self._load)

    def _bury(self, cause: LavatubeError) -> float | None:
        """The worker is as good as dead: set the state, then tell the streams."""
        if cause is not self._verdict:  # whoever passed that has told it
            logger.error("%s", cause)
        delay_s = None
        if isinstance(cause, EngineCrashed):  # any other error would come again
            delay_s = self._restarts.delay_after_failure(time.monotonic())
        self.failure = cause
        self.ready = self.loading = self.loaded = self.heartbeat = self._worker = None
        self._move(EngineState.FAILED if delay_s is None else EngineState.RESTARTING)
        # Whose fault it is may be told to everybody; paths and addresses are for the operator.
        told = cause if isinstance(cause, ServiceError) else from_code(cause.code, "The weights can't be used.")
        self._streams.fail(told)
        return delay_s

    def _move(self, state: EngineState) -> None:
        assert self.state.can_become(state), f"the engine can't go from {self.state} to {state}"
        logger.info("engine: %s", state)
        self.state = state
        if state in (EngineState.READY, EngineState.FAILED, EngineState.STOPPED):
            self._is_settled.set()
        else:
            self._is_settled.clear()
        if state in (EngineState.FAILED, EngineState.STOPPED):
            self._is_loaded.set()
        else:
            self._is_loaded.clear()

    def _refusal(self) -> LavatubeError:
        if self.state is EngineState.STOPPED:
            return Draining("The server is shutting down.", remedy=TRY_AGAIN)
        if self.state is EngineState.FAILED:
            return NotReady("The engine has failed and does not come back by itself.", remedy="Its log says why.")
        return NotReady(f"The engine is {self.state}.", remedy=TRY_AGAIN)
