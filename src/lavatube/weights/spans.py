"""What is still to be fetched, and what is under way: the next span for whoever is free. Decides; no I/O, no locks.

When nothing is left in the line, whoever is free races a span that takes far longer than others did: one connection in
many stalls, and without that the last per cent would wait for its time-out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from lavatube.weights.order import Rank

SLOW: Final = 3.0
"""How many times the usual duration is too long."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one file that one receiver brings; `file` is its index."""

    file: int
    start: int
    stop: int


def plan(
    sizes: Sequence[int], done: Sequence[Sequence[int]], chunk_bytes: int, tails: Sequence[int] | None = None
) -> list[Span]:
    """The chunks that are missing, in the order they are wanted.

    Files of one chunk come first (they say what the checkpoint is), then the first chunk of each other file, and those
    with the bytes of its tail (the names of its tensors lie there), then the rest in turn, since one file's bytes are
    hashed one after the other. `done` has one truth value a chunk.
    """
    ends = [size - tail for size, tail in zip(sizes, tails or [0] * len(sizes), strict=True)]
    missing = [
        Span(file, chunk * chunk_bytes, min((chunk + 1) * chunk_bytes, size))
        for file, size in enumerate(sizes)
        for chunk, is_done in enumerate(done[file])
        if not is_done
    ]
    return sorted(
        missing,
        key=lambda span: (sizes[span.file] > chunk_bytes, span.start > 0 and span.stop <= ends[span.file], span.start),
    )


class Line:
    """Spans in line, and those under way with the times at which they were begun."""

    def __init__(self, spans: Iterable[Span], race_after_s: float) -> None:
        """`race_after_s` is the least that a span gets before it is raced."""
        self._waiting = deque(spans)
        self._race_after_s = race_after_s
        self._begun_s: dict[Span, list[float]] = {}
        self._lost: set[Span] = set()
        self._unraced: set[int] = set()
        self._durations_s: deque[float] = deque(maxlen=64)

    def take(self, now_s: float) -> Span | None:
        """The next span, or one that is worth a second try beside the first; None: nothing to do at this moment."""
        span = self._waiting.popleft() if self._waiting else self._straggler(now_s)
        if span is not None:
            self._begun_s.setdefault(span, []).append(now_s)
        return span

    def give_back(self, span: Span, now_s: float) -> None:
        """A receiver has ended with a span, one way or the other; if another is still at it, that is the slower one."""
        begun_s = self._begun_s[span]
        self._durations_s.append(now_s - begun_s.pop())
        if begun_s:
            self._lost.add(span)
        else:
            del self._begun_s[span]
            self._lost.discard(span)

    def add(self, spans: Sequence[Span]) -> None:
        """Wrong or ignored: once more, in this order, and first, for somebody may wait for it."""
        self._waiting.extendleft(reversed(spans))

    def drop(self, file: int) -> None:
        """Its server ignores ranges. It is not raced from now on: a second body would begin at the first byte, too."""
        self._waiting = deque(span for span in self._waiting if span.file != file)
        self._unraced.add(file)

    def sort(self, key: Callable[[Span], tuple[Rank, int]]) -> None:
        """What is under way stays so."""
        self._waiting = deque(sorted(self._waiting, key=key))

    def _straggler(self, now_s: float) -> Span | None:
        alone = {
            span: begun_s[0]
            for span, begun_s in self._begun_s.items()
            if len(begun_s) == 1 and span not in self._lost and span.file not in self._unraced
        }
        if not alone or not self._durations_s:
            return None
        span, begun_s = min(alone.items(), key=lambda item: item[1])
        limit_s = max(self._race_after_s, SLOW * median(self._durations_s))
        return span if now_s - begun_s > limit_s else None
