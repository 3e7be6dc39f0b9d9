"""sha256 of streams that come at the same time: where the processor has instructions for it, two threads' in one of
them, at little more than the cost of one (`native/`); elsewhere `hashlib`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol, Self

Bytes = bytes | bytearray | memoryview


class Digest(Protocol):
    """Of all bytes that were added; one thread at a time."""

    def update(self, data: Bytes, /) -> None: ...

    def lend(self, data: Bytes, /) -> None:
        """Begin to add bytes, which stay as they are until `settle`: meanwhile other threads may do it."""

    def settle(self) -> None:
        """Have what was lent added."""

    def copy(self) -> Digest: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


class Unaided:
    """One of `hashlib`'s: what is lent is added by its own thread."""

    def __init__(self, own: hashlib._Hash) -> None:
        self._own = own
        self._lent: Bytes = b""
        self.update = own.update
        self.digest = own.digest
        self.hexdigest = own.hexdigest

    def lend(self, data: Bytes, /) -> None:
        self._lent = data

    def settle(self) -> None:
        self.update(self._lent)
        self._lent = b""

    def copy(self) -> Unaided:
        return Unaided(self._own.copy())


class Adding:
    """Called with digests in its block, to which `data` is added until that has ended, and never before.

    No generator: there is one for each piece of a download.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._digests: list[Digest] = []

    def __enter__(self) -> Self:
        return self

    def __call__(self, digest: Digest) -> None:
        digest.lend(self._data)
        self._digests.append(digest)

    def __exit__(self, *_: object) -> None:
        for digest in self._digests:
            digest.settle()


def _unaided() -> Digest:
    return Unaided(hashlib.sha256())


new_digest: Callable[[], Digest] = _unaided
"""One of no bytes yet."""
try:
    from lavatube.weights import _sha256
except ImportError:
    pass  # there was no compiler when the package was installed
else:
    if _sha256.is_supported():
        new_digest = _sha256.sha256
