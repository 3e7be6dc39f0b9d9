"""`POST /v1/estimate`: counts before anything is sent, and the refusals of a chat completion."""

from __future__ import annotations

import httpx
import pytest

from tests.serve.live import MODEL


def ask(client: httpx.Client, content: object, **fields: object) -> httpx.Response:
    return client.post("/v1/estimate", json={"messages": [{"role": "user", "content": content}], **fields})


def test_what_is_counted(shared_client: httpx.Client) -> None:
    picture = {"type": "image_size", "width": 640, "height": 480, "detail": "low"}
    answer = ask(shared_client, [{"type": "text", "text": "Hi"}, picture, picture], model=MODEL)
    assert answer.status_code == 200
    image = {"width": 640, "height": 480, "tokens": 4, "tiles": 1, "grid": [1, 1]}
    assert answer.json() == {
        "object": "estimate",
        "model": "echo",
        "prompt_tokens": 10,
        "text_tokens": 2,
        "image_tokens": 8,
        "images": [image, image],
        "context_tokens": 2000,
        "max_completion_tokens": 1990,
    }


def test_text_alone(shared_client: httpx.Client) -> None:
    answer = ask(shared_client, "Hello").json()
    assert (answer["prompt_tokens"], answer["image_tokens"], answer["images"]) == (5, 0, [])


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_size", "width": 0, "height": 1}, "messages.0.content.0.width"),
        ({"type": "image_size", "width": 1}, "messages.0.content.0.height"),
        ({"type": "image_size", "width": 1, "height": 1, "detail": "fine"}, "messages.0.content.0.detail"),
        ({"type": "image_url", "image_url": {"url": "data:,"}}, "messages.0.content.0.type"),
    ],
)
def test_what_is_refused_by_its_field(shared_client: httpx.Client, part: dict[str, object], param: str) -> None:
    answer = ask(shared_client, [part])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_only_users_have_pictures(shared_client: httpx.Client) -> None:
    part = {"type": "image_size", "width": 1, "height": 1}
    answer = shared_client.post("/v1/estimate", json={"messages": [{"role": "assistant", "content": [part]}]})
    assert answer.json()["error"]["param"] == "messages.0.content.0"


def test_another_model(shared_client: httpx.Client) -> None:
    assert ask(shared_client, "Hi", model="gpt-4o").status_code == 404
