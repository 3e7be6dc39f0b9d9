"""A histogram for what happens with every token: counted in a list, put into Prometheus' words when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.metrics_core import HistogramMetricFamily


class Tally:
    """For one thread; the library's own takes a lock and goes through its buckets one by one each time."""

    def __init__(self, limits: Sequence[float]) -> None:
        """Each limit is the largest value of its bucket; ascending."""
        self._limits = limits
        self._counts = [0] * (len(limits) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self._sum += value

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        return histogram(name, text, self._limits, self._counts, self._sum)


def histogram(
    name: str, text: str, limits: Sequence[float], counts: Sequence[int], total: float
) -> HistogramMetricFamily:
    """In Prometheus' words. `counts` by the buckets of `limits`, and at last what is larger than all of them."""
    names = [*(str(float(limit)) for limit in limits), "+Inf"]
    buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)
