"""Server-sent events, by hand: frames of bytes in, a response that ends when its client does.

Each piece that the frames' generator gives is one write to the socket, so it holds all that is ready. Whoever does not
read is waited for before the next piece is made, and given up by transport.py when that takes too long.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.types import Receive, Scope, Send

from lavatube.serve.connection import while_connected
from lavatube.serve.dialects import dump

KEEP_ALIVE_S: Final = 15.0
PIECES: Final = "lavatube.pieces"
"""An ASGI extension of transport.py's: a shorter way to the socket for the pieces of a body that has begun."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
TEXT: Final = "\0text"
NUMBER: Final = "\0number"
"""What stands in a template for what changes; no setting and no id has a NUL in it."""


def frame(data: object, *, event: str = "", event_id: int | None = None) -> bytes:
    """One event, its data as JSON on one line."""
    return raw_frame(dump(data), event=event, event_id=event_id)


def raw_frame(data: bytes, *, event: str = "", event_id: int | None = None) -> bytes:
    name = b"event: %s\n" % event.encode() if event else b""
    number = b"" if event_id is None else b"id: %d\n" % event_id
    return b"%s%sdata: %s\n\n" % (name, number, data)


def template(data: object, *, event: str = "") -> bytes:
    """A frame made once and sent often: `%` fills in `dump_text(…)` for its `TEXT` and an int for its `NUMBER`."""
    pattern = frame(data, event=event).replace(b"%", b"%%")
    return pattern.replace(dump(TEXT), b"%b").replace(dump(NUMBER), b"%d")


def text_frame(text: str, *, event: str, event_id: str) -> bytes:
    """One event whose data is text as it is; each line of it is a line of its own."""
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"event: {event}\nid: {event_id}\n{lines}\n".encode()


class EventStream:
    """An ASGI response of frames. Its generator is closed when the last is sent, or when nobody reads any more."""

    def __init__(
        self, frames: AsyncGenerator[bytes, None], *, first: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._frames = frames
        self._first = first
        self._headers = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]

    @classmethod
    async def begin(
        cls, frames: AsyncGenerator[bytes, None], receive: Receive, headers: Mapping[str, str] | None = None
    ) -> EventStream:
        """The first frame is awaited before the headers go out, so that a refusal can be a status code.

        Raises: ClientGone, and what the frames raise until then.
        """
        return cls(frames, first=await while_connected(receive, _first(frames)), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._frames):
            await while_connected(receive, self._write(scope, send))

    async def _write(self, scope: Scope, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *self._headers,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        write = scope.get("extensions", {}).get(PIECES)
        async for piece in self._frames:
            if write is None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            else:
                await write(piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _first(frames: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(frames, KEEP_ALIVE)
