"""The C library's heap, told to give back what large requests took."""

from __future__ import annotations

import ctypes
from typing import Final

# Source: glibc, malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
LARGE_BYTES: Final = 256 * 1024
NUM_ARENAS: Final = 2


def give_back_large_blocks() -> None:
    """Keep large blocks apart from the heap, so that their memory is the system's again once they are freed.

    Left alone, glibc puts blocks of up to 32 MiB into the heap as soon as some were freed, and has a heap for each of
    many threads: bodies of long ago then hold several times their size. Does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, NUM_ARENAS)


def give_back_free_memory() -> None:
    """Whole pages of the heap that nobody uses go back to the system now; who wants them again has them made anew.

    Blocks between others that are in use stay in the heap for good otherwise. Does nothing where there is no glibc.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
