"""One step ahead: while the device computes, the host does what is left to do of the step before.

A step that only decodes by replay, for rows of which each wants the likeliest token, needs nothing that the host knows
but where its rows belong, and that is one slot further. So the next one is launched behind it before its tokens are
read, and takes them on the device. Where anything else is to be done, the step under way is read, and an ordinary one
follows.

Whoever turns out to have ended by a step is computed once more for nothing. His blocks are given away at once: who gets
them writes to them in steps that are launched later, on the same stream, so that the one slot that is still written for
him is overwritten or never read. None that others could find by its key: it lies behind all that he had computed.
"""

from __future__ import annotations

from lavatube.engine.chunk import Chunk
from lavatube.engine.launched import Launched, Results
from lavatube.engine.runner import Runner
from lavatube.engine.scheduler import Scheduler
from lavatube.engine.sequence import Sequence, SequenceState


class Ahead:
    """Runs steps; at most one is under way when it is not asked."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._under_way: Launched | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a step was launched that is not read yet. No other may be scheduled before."""
        return self._under_way is not None

    def has(self, sequence: Sequence) -> bool:
        """Whether the step under way computes a token of a sequence."""
        return self._under_way is not None and any(chunk.sequence is sequence for chunk in self._under_way.chunks)

    def run(self, chunks: list[Chunk]) -> Results:
        """An ordinary step; and, where that can be, the next one is launched behind it."""
        assert self._under_way is None
        launched = self._runner.launch(chunks)
        if launched is None:
            return self._runner.run(chunks)
        self._go_on(launched, chunks)
        return launched.read()

    def finish(self) -> tuple[list[Chunk], Results]:
        """What the step under way computed, of whoever has not ended meanwhile. The next may be launched behind it."""
        launched = self._under_way
        assert launched is not None
        is_wanted = [chunk.sequence.state is not SequenceState.FINISHED for chunk in launched.chunks]
        chunks = [chunk for chunk, is_one in zip(launched.chunks, is_wanted, strict=True) if is_one]
        self._go_on(launched, chunks)
        return chunks, [results for results, is_one in zip(launched.read(), is_wanted, strict=True) if is_one]

    def _go_on(self, launched: Launched, chunks: list[Chunk]) -> None:
        self._under_way = self._runner.launch(self._scheduler.schedule_behind(chunks), launched)
