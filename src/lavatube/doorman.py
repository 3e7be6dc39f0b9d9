"""Who is at the door before the front can answer: `/livez` hears that there is somebody, all others wait for the front.

What answers HTTP takes a second to import. A request is looked at and left in its socket, which the front takes over
as if it had just been accepted; so this knows no HTTP but the first line of one request.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from contextlib import suppress
from typing import Final

logger = logging.getLogger(__name__)

MAX_GUESTS: Final = 64
"""Others wait where the system lets them."""
PEEK_BYTES: Final = 8192
_LIVEZ: Final = re.compile(rb"GET /livez(\?[!-~]*)? HTTP/1\.[01]\r\n")
_ALIVE: Final = b'{"status":"alive","phase":"provisioning"}'


class Doorman:
    """At a listener from now on, on the running loop, until it leaves."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self._loop = asyncio.get_running_loop()
        self._guests: dict[socket.socket, bool] = {}
        """Each that was let in, in order, and whether it has said nothing yet."""
        listener.setblocking(False)
        self._loop.add_reader(listener, self._let_in)

    def leave(self) -> list[socket.socket]:
        """Those who wait for the front; from now on whoever comes is its own."""
        self._loop.remove_reader(self.listener)
        for guest, is_silent in self._guests.items():
            if is_silent:
                self._loop.remove_reader(guest)
        guests, self._guests = list(self._guests), {}
        return guests

    def _let_in(self) -> None:
        try:
            guest, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone
        except OSError as error:
            logger.warning("nobody is let in for the moment: %s", error.strerror)
            self._loop.remove_reader(self.listener)  # who waits can do so without being looked at again and again
            return
        guest.setblocking(False)
        self._guests[guest] = True
        self._loop.add_reader(guest, self._look_at, guest)
        if len(self._guests) == MAX_GUESTS:
            self._loop.remove_reader(self.listener)

    def _look_at(self, guest: socket.socket) -> None:
        """Once, when something came: a probe's request is as small as to come in one piece."""
        self._loop.remove_reader(guest)
        self._guests[guest] = False
        request = b""
        with suppress(OSError):  # it has gone
            request = guest.recv(PEEK_BYTES, socket.MSG_PEEK)
            if _LIVEZ.match(request) and request.endswith(b"\r\n\r\n"):
                guest.recv(len(request))
                guest.send(_answer())
                request = b""
        if not request:  # nobody waits here any more: there is room for another
            del self._guests[guest]
            guest.close()
            self._loop.add_reader(self.listener, self._let_in)


def _answer() -> bytes:
    """As the front would say it."""
    head = (
        b"HTTP/1.1 200 OK",
        b"content-type: application/json",
        b"content-length: %d" % len(_ALIVE),
        b"x-request-id: req_%b" % secrets.token_hex(12).encode(),
        b"connection: close",
    )
    return b"\r\n".join((*head, b"", _ALIVE))
