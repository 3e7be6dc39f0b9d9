"""What the tests of the OpenAI API's responses say and read."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.predictions.fakes import PNG

DELTA = "response.output_text.delta"


def ask(text: str = "hello ", image: str = PNG) -> list[dict[str, Any]]:
    parts = [
        {"type": "input_text", "text": text},
        {"type": "input_image", "image_url": image, "detail": "high"},
    ]
    return [{"role": "user", "content": parts}]


def post(client: httpx.Client, **body: object) -> httpx.Response:
    return client.post("/v1/responses", json={"model": "echo", "input": "hello ", "max_output_tokens": 4} | body)


def events_of(text: str) -> list[dict[str, Any]]:
    """What a stream said; each event is named twice."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == DELTA)
