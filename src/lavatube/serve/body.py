"""One request's body → what it means to its route: headers are checked before a byte is read, reading has limits.

Every route that takes a body reads it here. Bodies that are being read share one budget of memory, with what is taken
along from the database; what waits behind them is bounded by predictions/line.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from starlette.requests import Request

from lavatube.errors import (
    BodyTooLarge,
    InvalidInput,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from lavatube.serve.connection import ClientGone
from lavatube.serve.strict_json import parse_json

MIB: Final = 1024 * 1024
PATIENCE_S: Final = 30.0
SLOWEST_BYTES_S: Final = 64 * 1024
# Smaller bodies are read in less than it takes to wake a thread up; half a MiB of small values takes 0.2 s.
ON_THE_LOOP_BYTES: Final = 32 * 1024

Meaning = TypeVar("Meaning")
Grow = Callable[[int], None]


@dataclass(slots=True)
class BodyReader:
    """Reads bodies of at most `max_bytes`, at most `budget_bytes` at once."""

    max_bytes: int
    budget_bytes: int = 256 * MIB
    patience_s: float = PATIENCE_S
    held_bytes: int = 0

    async def read(self, request: Request, parse: Callable[[dict[str, object]], Meaning]) -> Meaning:
        """What `parse` makes of the object in a request's body, in a thread where that may take long.

        Raises: UnsupportedMediaType, UnsupportedEncoding, BodyTooLarge, RequestTimeout, Overloaded, InvalidJson;
        InvalidInput for JSON that is no object; ClientGone; and what `parse` raises.
        """
        _check_type(request)
        return await self.read_raw(request, lambda raw: parse(_json_object(raw)))

    async def read_raw(self, request: Request, parse: Callable[[bytes], Meaning]) -> Meaning:
        """The same of a body that need not be JSON; its type is for whoever calls to check. Raises: as `read`."""
        _check_encoding(request)
        with self.holding() as grow:
            grow(self._declared_bytes(request))
            raw = await self._read(request, grow)
            if len(raw) < ON_THE_LOOP_BYTES:
                return parse(raw)
            return await asyncio.to_thread(parse, raw)

    @contextmanager
    def holding(self) -> Iterator[Grow]:
        """A share of the budget, nothing at first; to be told how many bytes it has grown to, in all.

        Raises, when told: BodyTooLarge, Overloaded.
        """
        held_bytes = 0

        def grow(size_bytes: int) -> None:
            nonlocal held_bytes
            if size_bytes > self.max_bytes:
                raise self._too_large()
            more_bytes = max(size_bytes - held_bytes, 0)
            if self.held_bytes and self.held_bytes + more_bytes > self.budget_bytes:
                raise Overloaded("Too many large requests are arriving at once.", remedy="Try again.", retry_after_s=1)
            self.held_bytes += more_bytes
            held_bytes += more_bytes

        try:
            yield grow
        finally:
            self.held_bytes -= held_bytes

    async def _read(self, request: Request, grow: Grow) -> bytes:
        """The body, as long as it comes: half a minute, and what a slow line needs for the bytes that have come."""
        body = bytearray()
        deadline = time.monotonic() + self.patience_s
        more = True
        while more:
            left_s = deadline + len(body) / SLOWEST_BYTES_S - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    message = await request.receive()
            except TimeoutError:
                raise RequestTimeout("The body did not arrive in time.", remedy="Send it faster.") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            grow(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _declared_bytes(self, request: Request) -> int:
        """What Content-Length says; 0 for a body in chunks, which is counted as it comes."""
        text = request.headers.get("content-length", "0")
        if not (text.isascii() and text.isdigit()):
            raise InvalidRequest(
                "Content-Length is not a number.", param="content-length", remedy="Send the size in bytes."
            )
        if len(text) > 18:  # Python takes its time for long numbers
            raise self._too_large()
        return int(text)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request is larger than {self.max_bytes // MIB} MiB.",
            remedy="Send a smaller picture, or its URL.",
        )


def _json_object(raw: bytes) -> dict[str, object]:
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise InvalidInput("The body is not a JSON object.", remedy="Send one.")
    return value


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(
            "The body is compressed.", param="content-encoding", remedy="Send it without Content-Encoding."
        )


def _check_type(request: Request) -> None:
    _check_encoding(request)
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.lower().partition("charset=")[2].strip(' "')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise UnsupportedMediaType(
            "The body must be JSON in UTF-8.", param="content-type", remedy="Send Content-Type: application/json."
        )
