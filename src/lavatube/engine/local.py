"""The engine on a background thread of the caller's own process: Submit in, a thread-safe iterator of events out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from lavatube.engine import loop
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Abort, Command, RequestEvent, Shutdown, Submit, is_last
from lavatube.errors import Conflict, Draining, EngineCrashed, LavatubeError

logger = logging.getLogger(__name__)

Inbox = SimpleQueue[RequestEvent | LavatubeError | None]


class LocalStream:
    """The events of one request, up to its Done or Failed. Any thread may iterate, close or drop it."""

    def __init__(self, inbox: Inbox, abort: Callable[[], None]) -> None:
        self._inbox = inbox
        self._abort = abort

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RequestEvent:
        """Raises: EngineCrashed if the engine died, Draining if it was closed."""
        item = self._inbox.get()
        if item is None or isinstance(item, LavatubeError) or is_last(item):
            self._inbox.put(None)  # for whoever asks after the end
        if item is None:
            raise StopIteration
        if isinstance(item, LavatubeError):
            raise item.with_traceback(None)
        return item

    def close(self) -> None:
        """Abort the request if it still runs; what is left to iterate ends with Done("abort")."""
        self._abort()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class LocalEngine:
    """Owns the thread. Every stream gets an end: its last event, or the error that ended the engine."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._inboxes: dict[str, Inbox] = {}
        self._failure: LavatubeError | None = None
        self._lock = threading.Lock()  # of the two above it
        self._thread = threading.Thread(target=self._run, name="lavatube-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Submit) -> LocalStream:
        """Begin a request, at once.

        Raises: EngineCrashed or Draining if the engine has ended; Conflict for an id that is in use.
        """
        inbox: Inbox = SimpleQueue()
        with self._lock:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if request.request_id in self._inboxes:
                raise Conflict(f"Request {request.request_id} is running already.", param="request_id")
            self._inboxes[request.request_id] = inbox
            self._commands.put(request)
        return LocalStream(inbox, lambda: self._abort(request.request_id, inbox))

    def close(self) -> None:
        """End the thread; what still runs ends with Draining."""
        self._commands.put(Shutdown())
        if threading.current_thread() is not self._thread:  # as it may be, where the last reference was in a cycle
            self._thread.join()

    def _abort(self, request_id: str, inbox: Inbox) -> None:
        """End a request, unless it has ended: its id may be another's by now.

        Without the lock: a stream may be dropped, and so aborted, anywhere, even inside `submit`.
        """
        if self._inboxes.get(request_id) is inbox:
            self._commands.put(Abort(request_id))

    def _run(self) -> None:
        failure: LavatubeError = Draining("The engine was closed.")
        try:
            loop.run(self._core, self._commands, self._emit)
        except Exception as error:
            logger.exception("the engine's thread died")
            failure = EngineCrashed("The engine crashed.")
            failure.__cause__ = error
        with self._lock:
            self._failure = failure
            inboxes = list(self._inboxes.values())
            self._inboxes.clear()
        for inbox in inboxes:
            inbox.put(failure)

    def _emit(self, events: list[RequestEvent]) -> None:
        for event in events:
            with self._lock:
                inbox = self._inboxes.pop(event.request_id) if is_last(event) else self._inboxes[event.request_id]
            inbox.put(event)
