"""Encoded pictures in, the tower's squares out; the work is done in limited, killable children.

A 59 KB picture can hold a thread for 15 s, and a decoder's bug is the front's bug when it runs there. So the front
never opens a picture: it looks at the first bytes, and a child does the rest. What crosses the line is here, too.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from lavatube.errors import ImageRejected, Overloaded, from_code
from lavatube.geometry import Detail
from lavatube.prompt.images import Format, ImageLimits, Reading, recognise
from lavatube.prompt.sandbox import SandboxBusy, SandboxError, SandboxLimits, SandboxPool
from lavatube.spec import PixelSpec

logger = logging.getLogger(__name__)

_CHILD: Final = "lavatube.prompt.decode_child"


class Treatment(msgspec.Struct, frozen=True):
    """What is made of a picture, whatever its size."""

    pixels: PixelSpec
    reading: Reading = "person"
    num_images: int = 1
    detail: Detail = "high"


class DecodeRequest(msgspec.Struct, frozen=True):
    data: bytes
    form: Format
    treatment: Treatment
    limits: ImageLimits


class Decoded(msgspec.Struct, frozen=True, tag="decoded"):
    """`data` is (tiles, 3, size, size) uint8; width and height are those of the picture that was cut."""

    data: bytes
    tiles: int
    size: int
    width: int
    height: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    code: str
    message: str
    remedy: str


DecodeReply = Decoded | Refused

request_decoder: Final = msgspec.msgpack.Decoder(DecodeRequest)
_reply_decoder: Final = msgspec.msgpack.Decoder(DecodeReply)
encoder: Final = msgspec.msgpack.Encoder()


class ImageDecoder:
    """A few children that decode; started at once, in the background. Any thread may call."""

    def __init__(
        self,
        workers: int = 2,
        *,
        cpu_limit_s: float = 2.0,
        memory_limit_bytes: int = 1024 * 1024 * 1024,
        wall_limit_s: float = 15.0,
    ) -> None:
        self._pool = SandboxPool(_CHILD, workers, SandboxLimits(memory_limit_bytes, cpu_limit_s, wall_limit_s))

    @property
    def pids(self) -> list[int]:
        return self._pool.pids

    def decode(self, data: bytes, treatment: Treatment, limits: ImageLimits) -> Decoded:
        """One picture's squares.

        Raises: ImageRejected and its kinds, also for a picture that ended its child; Overloaded when all are busy.
        """
        request = DecodeRequest(data, recognise(data, limits), treatment, limits)
        try:
            reply: DecodeReply = _reply_decoder.decode(self._pool.ask(encoder.encode(request)))
        except SandboxBusy:
            raise Overloaded(
                "Too many pictures are waiting to be decoded.", remedy="Try again in 5 s.", retry_after_s=5
            ) from None
        except (SandboxError, msgspec.DecodeError):
            logger.warning("a picture of %d bytes (%s) ended its decoder", len(data), request.form)
            raise ImageRejected(
                "The picture could not be decoded within the limits on time and memory.",
                remedy="Send a smaller one, or save it again.",
            ) from None
        if isinstance(reply, Refused):
            raise from_code(reply.code, reply.message, remedy=reply.remedy)
        return reply

    def close(self) -> None:
        """End the children."""
        self._pool.close()
