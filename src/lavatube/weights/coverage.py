"""Which bytes of a file are here: spans that do not touch, as the sorted list of their edges. No I/O, no locks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Coverage:
    """Starts empty. An edge with an even index is the first byte of a span, one with an odd index one past its last."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._edges: list[int] = []
        for start, stop in spans:
            self.add(start, stop)

    @property
    def num_bytes(self) -> int:
        return sum(self._edges[1::2]) - sum(self._edges[::2])

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The spans from `start` to `stop` that are not here."""
        first, last = self._between(start, stop)
        edges = [*([start] if first % 2 == 0 else []), *self._edges[first:last], *([stop] if last % 2 == 0 else [])]
        return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end]

    def add(self, start: int, stop: int) -> None:
        if start < stop:
            first, last = self._between(start, stop)
            self._edges[first:last] = [*([start] if first % 2 == 0 else []), *([stop] if last % 2 == 0 else [])]

    def remove(self, start: int, stop: int) -> None:
        if start < stop:
            first, last = self._between(start, stop)
            self._edges[first:last] = [*([start] if first % 2 else []), *([stop] if last % 2 else [])]
            assert len(self._edges) % 2 == 0

    def reach(self, position: int) -> int:
        """One past the last byte that is here without a gap from `position` on; `position` itself if that is not."""
        index = bisect_right(self._edges, position)
        return self._edges[index] if index % 2 else position

    def _between(self, start: int, stop: int) -> tuple[int, int]:
        """The edges from `start` to `stop`, which are included."""
        return bisect_left(self._edges, start), bisect_right(self._edges, stop)
