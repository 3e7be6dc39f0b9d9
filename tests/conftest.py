"""For the whole suite, and for every process that a test starts."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

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

# No clock decides over a made-up example: the machine may be doing something else.
settings.register_profile("lavatube", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lavatube")

LONG_FILES = ("flow", "train", "model/test_soundness", "clients", "parity")
"""Folders and files that take longest: whoever is given one of them last keeps all others waiting."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait, for processes or for a time to be over."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(f"tests/{name}" for name in LONG_FILES)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else libraries complain of what is left of theirs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server
