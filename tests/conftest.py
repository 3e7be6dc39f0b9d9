"""For the whole suite, and for every process that a test starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Postgres

# Test models are tiny: a second thread costs more than it brings, and where cores are shared, many times more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No clock decides over a made-up example: the machine may be doing something else.
settings.register_profile("lavatube", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lavatube")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server
