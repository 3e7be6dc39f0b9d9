"""What is still to be fetched, and what is under way: the next span for whoever is free. Decides; no I/O, no locks.

The less is left in the line, the shorter are the spans that are given out, so that all receivers end together (guided
self-scheduling). When nothing is left, whoever is free races a span that takes far longer than others did: one
connection in many stalls, and without that the last per cent would wait for its time-out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lavatube.weights.options import MIB
from lavatube.weights.order import Rank

SLOW: Final = 3.0
"""How many times the usual duration is too long."""
PIECE_BYTES: Final = 4 * MIB
"""What a span is not cut below: each costs a request."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one file that one receiver brings; `file` is its index."""

    file: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


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
        self._waiting_bytes = sum(span.size for span in self._waiting)
        self._race_after_s = race_after_s
        self._begun_s: dict[Span, list[float]] = {}
        self._lost: set[Span] = set()
        self._whole: set[int] = set()
        self._paces: deque[float] = deque(maxlen=64)
        self._is_ranked = False

    def take(self, now_s: float) -> Span | None:
        """The next span, or one that is worth a second try beside the first; None: nothing to do at this moment."""
        span = self._next() if self._waiting else self._straggler(now_s)
        if span is not None:
            self._begun_s.setdefault(span, []).append(now_s)
        return span

    def give_back(self, span: Span, now_s: float) -> None:
        """A receiver has ended with a span, one way or the other; if another is still at it, that is the slower one."""
        begun_s = self._begun_s[span]
        self._paces.append((now_s - begun_s.pop()) / _length(span))
        if begun_s:
            self._lost.add(span)
        else:
            del self._begun_s[span]
            self._lost.discard(span)

    def put_back(self, span: Span, position: int) -> None:
        """A receiver leaves a span at `position`: what is missing of it is in line again, unless another is at it."""
        begun_s = self._begun_s[span]
        begun_s.pop()
        if not begun_s:
            del self._begun_s[span]
            self._lost.discard(span)
            self.add([Span(span.file, position, span.stop)])

    def add(self, spans: Sequence[Span]) -> None:
        """Wrong or ignored: once more, in this order, and first, for somebody may wait for it."""
        self._waiting.extendleft(reversed(spans))
        self._waiting_bytes += sum(span.size for span in spans)

    def drop(self, file: int) -> None:
        """Its server ignores ranges. It is not cut or raced from now on: each body would begin at the first byte."""
        self._waiting = deque(span for span in self._waiting if span.file != file)
        self._waiting_bytes = sum(span.size for span in self._waiting)
        self._whole.add(file)

    def sort(self, key: Callable[[Span], tuple[Rank, int]]) -> None:
        """From now on somebody waits for them in this order. What is under way stays so."""
        self._is_ranked = True
        self._waiting = deque(sorted(self._waiting, key=key))

    def _next(self) -> Span:
        span = self._waiting[0] if self._is_ranked else self._next_of_an_idle_file()
        self._waiting.remove(span)
        share = max(PIECE_BYTES, self._waiting_bytes // (2 * (len(self._begun_s) + 1)))
        if span.file not in self._whole and span.size >= share + PIECE_BYTES:
            self._waiting.appendleft(Span(span.file, span.start + share, span.stop))
            span = Span(span.file, span.start, span.start + share)
        self._waiting_bytes -= span.size
        return span

    def _next_of_an_idle_file(self) -> Span:
        """If there is one: a file's bytes are hashed in order, and what comes in order need not be read again."""
        busy = {span.file for span in self._begun_s}
        return next((span for span in self._waiting if span.file not in busy), self._waiting[0])

    def _straggler(self, now_s: float) -> Span | None:
        alone = {
            span: begun_s[0]
            for span, begun_s in self._begun_s.items()
            if len(begun_s) == 1 and span not in self._lost and span.file not in self._whole
        }
        if not alone or not self._paces:
            return None
        span, begun_s = min(alone.items(), key=lambda item: item[1])
        usual = sorted(self._paces)[len(self._paces) // 2]
        limit_s = max(self._race_after_s, SLOW * usual * _length(span))
        return span if now_s - begun_s > limit_s else None


def _length(span: Span) -> int:
    """What its duration is measured by: a short one takes as long as its request."""
    return max(span.size, PIECE_BYTES)
