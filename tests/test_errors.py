"""The errors: one class a code, each described, and the document that is written from them up to date."""

from __future__ import annotations

import re

import pytest

from docs.errors import DOCUMENT, PARTS, document, kinds
from lavatube import errors
from lavatube.errors import LavatubeError, from_code

KINDS = [kind for root in PARTS for kind in kinds(root)]


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m docs.errors"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_is_described_and_drawn_in_the_tree(kind: type[LavatubeError]) -> None:
    assert "__doc__" in vars(kind), "say when it is raised"
    assert vars(kind)["__doc__"], "say when it is raised"
    status = "" if "operator" in str(kind.__mro__).lower() else rf"{kind.status}\s+"
    retryable = r"\s+\(retryable\)" if kind.is_retryable else r"(?!\s+\(retryable\))"
    assert re.search(rf"─ {kind.__name__}\s+{status}{kind.code}\b{retryable}", errors.__doc__ or "")


def test_codes_are_unique_and_cross_a_border() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes)) + codes.count("invalid_request") - 1
    for kind in KINDS:
        assert from_code(kind.code, "x").status == kind.status
