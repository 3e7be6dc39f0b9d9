"""Bytes that a client sent → JSON values, or InvalidJson. Strict where Python's own parser is not.

Refused: any encoding but UTF-8, a byte order mark, NaN and Infinity, lone surrogates, two values for one key, more than
64 levels. Nothing of the input is repeated in a message.
"""

from __future__ import annotations

import json
import re
from typing import Final

import pydantic_core

from lavatube.errors import InvalidJson

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 150_000
MAX_MARKS: Final = 250_000
MAX_QUOTES: Final = 4 * MAX_MARKS
_KEY: Final = re.compile(rb'"\s*:')


def parse_json(raw: bytes) -> object:
    """Raises InvalidJson."""
    if not raw.strip():
        raise InvalidJson("The body is empty.", remedy="Send a JSON object.")
    _check_density(raw)
    try:
        value: object = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson(f"The body is not JSON: {error}.", remedy="Send one JSON object.") from None
    if _count_keys(value) != len(_KEY.findall(raw)):
        _refuse_repeated_keys(raw)
    return value


def _check_density(raw: bytes) -> None:
    """Refuse a body of very many small values before it becomes objects, each many times its size.

    Counted in texts, too; but a picture in base64 has none of these bytes, and a prompt that long fits no context.
    """
    num_marks = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
    if num_marks > MAX_MARKS or raw.count(b'"') > MAX_QUOTES:
        raise InvalidJson(f"The body has more than {MAX_VALUES} values.", remedy="Send a smaller request.")


def _count_keys(value: object) -> int:
    """Keys of all objects in it. Raises InvalidJson when it is nested too deeply, or has too many values."""
    num_keys = num_values = 0
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                num_keys += len(item)
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return num_keys
        num_values += len(below)
        if num_values > MAX_VALUES:
            raise InvalidJson(f"The body has more than {MAX_VALUES} values.", remedy="Send a smaller request.")
        level = below
    raise InvalidJson(f"The body is nested more than {MAX_DEPTH} levels deep.", remedy="Send a flatter one.")


def _refuse_repeated_keys(raw: bytes) -> None:
    """The slow, exact look at a body that seems to have more keys than its objects; a text may hold `":` too."""

    def unique(pairs: list[tuple[str, object]]) -> None:
        if len({key for key, _ in pairs}) != len(pairs):
            raise InvalidJson("The body gives the same key twice.", remedy="Give each field once.")

    json.loads(raw, object_pairs_hook=unique)
