"""One HTTP request over a connection that is open, its answer back: within a deadline, headers and body bounded."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

from lavatube.prompt.dial import remaining
from lavatube.prompt.urls import Target

MAX_HEADER_BYTES: Final = 8 * 1024
_READ_BYTES: Final = 64 * 1024


class ReplyTooLarge(Exception):
    """The body has more bytes than were wanted."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`fields` are the headers, their names in lower case. The body is read of a 200 only, and where it is wanted."""

    status: int
    fields: Mapping[str, str]
    body: bytes = b""


def exchange(
    line: socket.socket,
    method: str,
    target: Target,
    headers: Mapping[str, str],
    *,
    deadline: float,
    body: bytes = b"",
    max_reply_bytes: int = 0,
) -> Reply:
    """Send a request and read what comes back; of its body up to `max_reply_bytes`, and with 0 none.

    Raises: OSError, h11.RemoteProtocolError, ReplyTooLarge.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
    fields = {"Host": target.authority, "User-Agent": "lavatube", "Connection": "close", **headers}
    request = h11.Request(method=method, target=target.path, headers=list(fields.items()))
    data = h11.Data(body)
    pieces = [connection.send(event) or b"" for event in (request, data, h11.EndOfMessage())]
    line.settimeout(remaining(deadline))
    line.sendall(b"".join(pieces))
    head = _read_head(connection, line, deadline)
    found = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in head.headers}
    if head.status_code != 200 or not max_reply_bytes:
        return Reply(head.status_code, found)
    if int(found.get("content-length", "0")) > max_reply_bytes:
        raise ReplyTooLarge
    return Reply(200, found, _read_body(connection, line, max_reply_bytes, deadline))


def _read_head(connection: h11.Connection, line: socket.socket, deadline: float) -> h11.Response:
    while True:
        # Small reads: the limit on headers counts what was left over after a read, not what one read brought.
        event = _next_event(connection, line, 4096, deadline)
        if isinstance(event, h11.Response):
            return event


def _read_body(connection: h11.Connection, line: socket.socket, max_bytes: int, deadline: float) -> bytes:
    body = bytearray()
    while True:
        event = _next_event(connection, line, _READ_BYTES, deadline)
        if not isinstance(event, h11.Data):
            return bytes(body)
        body += event.data
        if len(body) > max_bytes:
            raise ReplyTooLarge


def _next_event(connection: h11.Connection, line: socket.socket, read_bytes: int, deadline: float) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        line.settimeout(remaining(deadline))
        connection.receive_data(line.recv(read_bytes))
    if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
        raise ConnectionError("the server closed before it had answered")
    return event
