"""What the tests of chat completions say, with the stock client or past its own checks."""

from __future__ import annotations

import httpx
import openai

from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer


def connect(server: LiveServer, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20, **options)


def ask(text: str = "hello ", image: str = PNG) -> list[dict]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": image, "detail": "high"}},
    ]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


def post(client: openai.OpenAI, **body: object) -> httpx.Response:
    """Past the client's own checks."""
    whole = {"model": "echo", "messages": ask()} | body
    return client._client.post("chat/completions", json=whole)
