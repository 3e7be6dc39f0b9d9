"""The body of one HTTP response: what came along with the headers, then bytes straight from the socket."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Final

from lavatube.weights.dial import Connection
from lavatube.weights.patience import Transient

PIECE_S: Final = 1.0


class Body:
    """Bytes `start` to `stop` of a file, as they come in."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        connection: Connection,
        start: int,
        stop: int,
        on_close: Callable[[], None],
    ) -> None:
        self.start = start
        self.stop = stop
        self.version = version_of(response)
        self._on_close = on_close
        self._response = response
        self._connection = connection
        self._is_drained = False
        """Whether what was read along with the headers has been given out."""

    def readinto(self, buffer: memoryview) -> int:
        """What came in a second, at least a byte. Raises: Transient if the body ends or stalls before `stop`."""
        deadline, count = time.monotonic() + PIECE_S, 0
        try:
            while count < len(buffer) and (got := self._receive(buffer[count:])):
                count += got
                if time.monotonic() > deadline:  # so that whoever reads can see how slow it is
                    break
        except (OSError, http.client.HTTPException) as error:
            raise transient(error) from error
        if not count:
            raise Transient("the body ended early")
        return count

    def close(self) -> None:
        self._on_close()

    def _receive(self, buffer: memoryview) -> int:
        """After what was read along with the headers, straight from the socket where that can be. Raises: OSError."""
        response = self._response
        if not self._is_drained:
            count = receive(response, buffer)
            can_fill = bool(response.length) and not response.chunked and self._connection.can_fill
            self._is_drained = can_fill and count < len(buffer)
            return count
        if not response.length:
            return 0
        count = self._connection.fill(buffer[: response.length], PIECE_S)
        _note_received(response, count)
        return count


def receive(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    """What the socket has now. `HTTPResponse.readinto` would go on until the buffer is full, at whatever pace."""
    if response.chunked or response.length is None:
        data = response.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)
    if response.length == 0 or response.fp is None:
        return 0
    count = response.fp.readinto1(buffer[: response.length])
    _note_received(response, count)
    return count


def _note_received(response: http.client.HTTPResponse, count: int) -> None:
    assert response.length is not None
    response.length -= count
    if response.length == 0:
        response.close()  # which lets go of the connection, and leaves it open


def version_of(response: http.client.HTTPResponse) -> str:
    """The server's mark of a file's version; empty if it gives none."""
    return response.getheader("ETag") or response.getheader("Last-Modified") or ""


def transient(error: Exception) -> Transient:
    """What became of a failure of the network, in words."""
    if isinstance(error, TimeoutError):
        return Transient("nothing came for too long")
    return Transient(f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__)
