"""What is in flight, by what a container is left."""

from __future__ import annotations

import pytest

from lavatube.weights.options import MIB, connections_within

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("left_bytes", "connections"),
    [(None, 32), (64 * GIB, 32), (8 * GIB, 32), (4 * GIB, 16), (GIB, 4), (512 * MIB, 2), (100 * MIB, 1), (0, 1)],
)
def test_connections(left_bytes: int | None, connections: int) -> None:
    assert connections_within(left_bytes) == connections
