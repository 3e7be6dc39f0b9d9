"""Commands and events to bytes, and bytes to them, whatever pieces they arrive in. Knows no sockets.

A frame is a 4-byte big-endian length and that many bytes of MessagePack: one command, or a list of events.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from lavatube.engine.wire import Command, Event

MAX_FRAME_BYTES: Final = 512 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")

_encoder: Final = msgspec.msgpack.Encoder()
_command_decoder: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
_events_decoder: Final[msgspec.msgpack.Decoder[list[Event]]] = msgspec.msgpack.Decoder(list[Event])


def frame(command: Command) -> bytes:
    """One command as bytes to send."""
    return _frame(_encoder.encode(command))


def frame_events(*events: Event) -> bytes:
    """All events of a step as bytes to send: one frame, so that each costs its own few bytes and no more."""
    return _frame(_encoder.encode(events))


def _frame(body: bytes) -> bytes:
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into message bodies, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies that `data` completes, in order. Raises ValueError for a length over the limit."""
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return bodies


def decode_command(body: bytes) -> Command:
    """Raises msgspec.DecodeError for bytes that are not a command."""
    return _command_decoder.decode(body)


def decode_events(body: bytes) -> list[Event]:
    """Raises msgspec.DecodeError for bytes that are not events."""
    return _events_decoder.decode(body)
