"""The Prefer header."""

from __future__ import annotations

import pytest

from lavatube.serve.prefer import Preference, parse_prefer


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Preference()),
        (["respond-async"], Preference(is_async=True)),
        (["Respond-Async, wait=5"], Preference(is_async=True, wait_s=5)),
        (["respond-async", "wait=5"], Preference(is_async=True, wait_s=5)),
        (['wait="7"; x=y, handling=lenient'], Preference(wait_s=7)),
        (["wait=3, wait=9"], Preference(wait_s=3)),
        (["wait"], Preference()),
        (["wait=-1"], Preference()),
        (["wait=1e9, wait=²"], Preference()),
        (["wait=999999999"], Preference()),
        (["not-respond-async"], Preference()),
    ],
)
def test_parsing(lines: list[str], expected: Preference) -> None:
    assert parse_prefer(lines) == expected


def test_how_long_to_wait_and_what_was_applied() -> None:
    assert Preference().wait_limit_s is None
    assert Preference(is_async=True).wait_limit_s == 0
    assert Preference(is_async=True, wait_s=4).wait_limit_s == 4
    assert Preference().headers == {}
    assert Preference(is_async=True, wait_s=4).headers == {"Preference-Applied": "respond-async, wait=4"}
