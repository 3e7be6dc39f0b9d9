"""Server-sent events as a client sees them: name, id and data, with the moment of arrival."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Event:
    name: str
    id: str
    data: Any
    at: float


def events(response: httpx.Response) -> Iterator[Event]:
    name = identifier = ""
    data: list[str] = []
    for line in response.iter_lines():
        if not line:
            if data:
                yield Event(name, identifier, json.loads("\n".join(data)), time.monotonic())
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            identifier = value
        elif field == "data":
            data.append(value)
