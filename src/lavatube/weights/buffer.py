"""Memory that the kernel copies bytes into at full speed."""

from __future__ import annotations

import mmap
from typing import Final

from lavatube.weights.options import MIB

BUFFER_BYTES: Final = 2 * MIB
"""What is received, hashed and written at once: the processor's last cache holds it, and calls are few."""


def new_buffer(size_bytes: int = BUFFER_BYTES) -> memoryview:
    """Begins on a page. A `bytearray` begins 16 bytes behind one, and what the kernel copies out of whole pages to
    there takes twelve times as long on a Zen 3: `rep movsb` to where the lowest 12 bits of both addresses differ by up
    to 16, as it was measured.

    Source: glibc's bug 30994, for which its own copies do without that instruction on such processors.
    """
    return memoryview(mmap.mmap(-1, size_bytes))
