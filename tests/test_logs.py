"""The log for what collects it: every line is an object, whatever was logged."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from lavatube.logs import JsonLines


def line(message: object, *args: object, **more: object) -> dict[str, object]:
    logger = logging.getLogger("tests.logs")
    record = logger.makeRecord("tests.logs", logging.WARNING, __file__, 1, message, args, more.pop("exc_info", None))
    record.__dict__.update(more)
    text = JsonLines("front").format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_a_line_is_an_object() -> None:
    said = line("%d of %s", 3, "ä\nb", request_id="req_1", facts={"status": 200, "ms": 1.5})
    assert said.pop("time")
    assert said == {
        "level": "warning",
        "source": "front",
        "request_id": "req_1",
        "message": "3 of ä\nb",
        "status": 200,
        "ms": 1.5,
    }


def test_a_stack_is_part_of_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        said = line("a defect", exc_info=sys.exc_info())
    assert "ValueError: broken" in str(said["stack"])


def test_outside_of_all_requests_there_is_a_dash() -> None:
    assert line("listening")["request_id"] == "-"


@pytest.mark.parametrize("message", ["", "\x1b[31m", "\ud800"])
def test_no_text_breaks_a_line(message: str) -> None:
    assert line(message)["message"] == message
