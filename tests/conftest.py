"""For the whole suite, and for every process that a test starts."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache

import httpx._transports.default as transports
import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Postgres

# Test models are tiny: a second thread costs more than it brings, and where cores are shared, many times more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every process that a test starts would compile the same sources anew: a second of work, some hundred times.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What is imported stays. Searched for garbage again and again while it grows, it takes half as long again to import.
gc.disable()

# A client of httpx reads all certificates that there are, 70 ms of work, and tests make one for most requests, and for
# each look at whether a server is ready by now: more work than the server's start. One reading serves them all.
transports.create_ssl_context = cache(transports.create_ssl_context)

# No clock decides over a made-up example: the machine may be doing something else.
settings.register_profile("lavatube", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lavatube")

LONG = ("train/test_main", "flow/test_faults", "flow", "model/test_soundness", "train", "parity", "clients")
"""Files and folders that take longest: whoever is given one of them last keeps all others waiting."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait, for processes or for a time to be over."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    return next((place for place, name in enumerate(LONG) if item.nodeid.startswith(f"tests/{name}")), len(LONG))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else libraries complain of what is left of theirs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server
