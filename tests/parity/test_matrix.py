"""Every cell of the table in docs/models.md, executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.matrix import CHECKS, check, published, render
from tests.parity.rows import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}, {row.layout}")
def test_from_files_to_answer_as_the_reference(row: Row, tmp_path: Path) -> None:
    assert check(row, tmp_path) == dict.fromkeys(CHECKS, True)


def test_the_document_says_so() -> None:
    """Run `python -m tests.parity.matrix` where rows have changed."""
    assert published() == render((row, dict.fromkeys(CHECKS, True)) for row in ROWS)
