"""Prompts on their way through a model whose weights are still to come: each is taken as far as they are here.

Between two stages the engine looks up: who comes later sets out as well and catches up, and who is aborted leaves at
once. So each prompt is on a way of its own, all of its pieces together, and is computed as it would be alone.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from lavatube.engine.chunk import Chunk
from lavatube.engine.launched import Results
from lavatube.engine.runner import Runner
from lavatube.engine.sequence import Sequence as Tokens
from lavatube.model.gate import Gate

HELD_S: Final = 0.02
"""How long nobody looks up while all are held."""


@dataclass(slots=True, eq=False)
class _Way:
    """One prompt's, and the stage before which it stands."""

    pieces: Sequence[Chunk]
    stages: Generator[str, None, Results]
    stage: str
    came_s: float


class Wave:
    """From an engine's first request to the moment at which its weights are all here and verified."""

    def __init__(self, runner: Runner, gate: Gate) -> None:
        self._runner = runner
        self._gate = gate
        self._ways: list[_Way] = []

    @property
    def is_needed(self) -> bool:
        """Whether a prompt that is computed as usual would have to wait."""
        return not self._gate.is_open

    @property
    def is_over(self) -> bool:
        return self._gate.is_open and not self._ways

    def add(self, pieces: Sequence[Chunk]) -> None:
        """All that is to be computed of one sequence, in order."""
        stages = self._runner.by_stage(pieces)
        self._ways.append(_Way(pieces, stages, next(stages), time.monotonic()))

    def discard(self, sequence: Tokens) -> None:
        """Go no further with a sequence, if it is under way."""
        self._ways = [way for way in self._ways if way.pieces[0].sequence is not sequence]

    def advance(self) -> list[tuple[Sequence[Chunk], Results]]:
        """Take each one stage further, or wait a moment; those that came through, with what came of their pieces."""
        going = [way for way in self._ways if self._gate.lets(way.stage)]
        if self._ways and not going:
            self._gate.wait(self._ways[0].stage, HELD_S)
        through = []
        for way in going:
            if way is self._ways[0]:
                self._gate.tell(way.stage, way.came_s)
            try:
                way.stage, way.came_s = next(way.stages), time.monotonic()
            except StopIteration as end:
                through.append((way.pieces, end.value))
        self._ways = [way for way in self._ways if all(way.pieces is not pieces for pieces, _ in through)]
        return through
