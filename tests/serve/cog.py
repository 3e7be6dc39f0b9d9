"""What the tests of Cog's routes send and read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx

from tests.predictions.fakes import PNG

SSE = {"accept": "text/event-stream"}


def body(prompt: str = "hello ", **inputs: object) -> dict[str, object]:
    return {"input": {"image": PNG, "prompt": prompt, "max_tokens": 12} | inputs}


def events(lines: Iterator[str]) -> Iterator[tuple[str, int, dict]]:
    """(name, id, data) of each event; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and fields:
            yield fields["event"], int(fields["id"]), json.loads(fields["data"])
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def stream(client: httpx.Client, method: str, path: str, **options: object) -> list[tuple[str, int, dict]]:
    with client.stream(method, path, **options) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def chunks(seen: list[tuple[str, int, dict]]) -> str:
    """The text, in whatever pieces it came: who is late gets more at once. Ids must grow."""
    ids = [event_id for _, event_id, _ in seen]
    assert ids == sorted(set(ids))
    return "".join(data["chunk"] for name, _, data in seen if name == "output")
