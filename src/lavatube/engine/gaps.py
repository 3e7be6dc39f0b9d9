"""How long streams waited for their next token, as a histogram: the engine's own view, before front and wire."""

from __future__ import annotations

from bisect import bisect_left

from lavatube.engine.wire import GAP_LIMITS_S, GapCounts


class Gaps:
    def __init__(self) -> None:
        self._counts = [0] * (len(GAP_LIMITS_S) + 1)
        self._sum_s = 0.0

    @property
    def counts(self) -> GapCounts:
        """As they are now."""
        return GapCounts(list(self._counts), self._sum_s)

    def add(self, gap_s: float) -> None:
        self._counts[bisect_left(GAP_LIMITS_S, gap_s)] += 1
        self._sum_s += gap_s
