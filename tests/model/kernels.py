"""The kernels of every instruction set that this processor has."""

from __future__ import annotations

import pytest

from lavatube.model.native import LEVELS, Native, native, open_library


def kernels_of(level: int) -> Native:
    """Skips where there are none."""
    library, best = open_library(), native()
    if library is None or best is None:
        pytest.skip("the kernels were not built")
    if level > best.level:
        pytest.skip(f"this processor has no {LEVELS[level]}")
    return Native(library, level)


def kernels_up_to(level: int) -> Native:
    """Those, or the best below."""
    best = native()
    return kernels_of(min(level, best.level if best else 0))
