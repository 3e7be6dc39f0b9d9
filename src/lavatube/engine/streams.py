"""The requests that are open on one worker, and where each one's events go. Knows neither the worker nor its state."""

from __future__ import annotations

from lavatube.engine.inbox import Inbox
from lavatube.engine.wire import RequestEvent, is_last
from lavatube.errors import Conflict, LavatubeError


class Streams:
    """From a request's beginning to its last event, which may come when nobody reads it any more."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox | None] = {}  # None: closed here, its end is not yet told by the worker

    def __len__(self) -> int:
        return len(self._inboxes)

    def open(self, request_id: str) -> Inbox:
        """Raises: Conflict for an id in use."""
        if request_id in self._inboxes:
            raise Conflict(f"Request {request_id} is running already.", param="request_id")
        inbox = self._inboxes[request_id] = Inbox()
        return inbox

    def is_open(self, request_id: str) -> bool:
        """Whether it is read, and has not ended."""
        return self._inboxes.get(request_id) is not None

    def close(self, request_id: str, inbox: Inbox) -> bool:
        """Nobody reads it any more; its id stays in use until its end is told. False: that has been."""
        if self._inboxes.get(request_id) is not inbox:
            return False
        self._inboxes[request_id] = None
        return True

    def put(self, event: RequestEvent) -> None:
        """What is of no open stream is dropped."""
        take = self._inboxes.pop if is_last(event) else self._inboxes.get
        inbox = take(event.request_id, None)
        if inbox is not None:
            inbox.put(event)

    def fail(self, cause: LavatubeError) -> None:
        """End them all: the worker tells no more."""
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            if inbox is not None:
                inbox.put(cause)
