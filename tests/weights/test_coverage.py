"""Which bytes are here, beside a plain set of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lavatube.weights.coverage import Coverage

POSITION = st.integers(0, 30)
CHANGES = st.lists(st.tuples(st.booleans(), st.tuples(POSITION, POSITION).map(sorted)))


@given(CHANGES, POSITION, POSITION)
def test_a_coverage_knows_what_a_set_of_bytes_knows(
    changes: list[tuple[bool, tuple[int, int]]], one: int, other: int
) -> None:
    coverage, expected = Coverage(), set[int]()
    for is_added, (start, stop) in changes:
        if is_added:
            coverage.add(start, stop)
            expected |= set(range(start, stop))
        else:
            coverage.remove(start, stop)
            expected -= set(range(start, stop))
    start, stop = sorted((one, other))
    missing = [byte for span in coverage.missing(start, stop) for byte in range(*span)]
    assert missing == [byte for byte in range(start, stop) if byte not in expected]
    assert coverage.num_bytes == len(expected)
    reached = coverage.reach(start)
    assert set(range(start, reached)) <= expected
    assert reached not in expected


def test_bytes_that_were_here_before_are_a_span() -> None:
    coverage = Coverage([(0, 10), (10, 20), (30, 40)])
    assert coverage.reach(5) == 20
    assert coverage.missing(15, 35) == [(20, 30)]
