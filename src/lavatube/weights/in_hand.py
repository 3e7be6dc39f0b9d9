"""Digests of chunks that are made as they are received, while the processor's cache has them. No I/O, no locks."""

from __future__ import annotations

from lavatube.weights.digest import new_digest


class Running:
    """The digest of a chunk's first bytes."""

    def __init__(self) -> None:
        self.digest = new_digest()
        self.num_bytes = 0


class InHand:
    """One `Running` for each chunk that comes in order from its beginning on; any other is for somebody to read again.

    Between two calls the caller brings the one that it took up to date. Whoever comes in that time gets none.
    """

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}

    def take(self, chunk: int, offset: int) -> Running | None:
        """For the bytes from `offset` on, counted from the chunk's beginning; None if what is before them is not in."""
        if offset == 0:
            self._running[chunk] = Running()
        running = self._running.get(chunk)
        return running if running is not None and running.num_bytes == offset else None

    def drop(self, chunk: int) -> None:
        self._running.pop(chunk, None)
