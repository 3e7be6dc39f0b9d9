"""sha256 of streams that come at the same time: where the processor has instructions for it, two threads' in one of
them, at little more than the cost of one (`native/`); elsewhere `hashlib`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol


class Digest(Protocol):
    """Of all bytes that were added; one thread at a time."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def copy(self) -> Digest: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


new_digest: Callable[[], Digest] = hashlib.sha256
"""One of no bytes yet."""
try:
    from lavatube.weights import _sha256
except ImportError:
    pass  # there was no compiler when the package was installed
else:
    if _sha256.is_supported():
        new_digest = _sha256.sha256
