"""Gaps between tokens as the engine counts them: every gap once, in its class, and none before the first token."""

from __future__ import annotations

from itertools import count

from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.gaps import Gaps
from lavatube.engine.wire import GAP_LIMITS_S
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY, run, submit


def test_a_gap_belongs_to_the_first_limit_that_holds_it() -> None:
    gaps = Gaps()
    for gap_s in (0.0, GAP_LIMITS_S[0], 0.011, 99.0):
        gaps.add(gap_s)
    counts = gaps.counts.counts
    assert counts[0] == 2
    assert counts[GAP_LIMITS_S.index(0.025)] == 1
    assert counts[-1] == 1
    assert sum(counts) == 4


def test_each_token_but_the_first_ends_a_gap(model: Llava, spec: ModelSpec) -> None:
    ticks = count()
    core = EngineCore(
        model, spec, num_blocks=64, max_sequences=8, max_step_tokens=512, clock=lambda: float(next(ticks))
    )
    run(core, *[submit(spec, name, replace(GREEDY, max_tokens=7)) for name in "abc"])
    assert sum(core.gaps.counts) == 3 * 6
    assert core.gaps.sum_s > 3 * 6
