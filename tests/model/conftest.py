"""Every instruction set's kernels, for the tests of them."""

from __future__ import annotations

import pytest

from lavatube.model.native import LEVELS, Native
from tests.model.kernels import kernels_of


@pytest.fixture(params=range(len(LEVELS)), ids=LEVELS)
def kernels(request: pytest.FixtureRequest) -> Native:
    return kernels_of(request.param)
