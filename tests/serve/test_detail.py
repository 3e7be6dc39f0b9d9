"""The `detail` of an OpenAI picture reaches the preparer."""

from __future__ import annotations

import pytest

from lavatube.errors import InvalidInput
from lavatube.serve.openai_request import parse_chat_request


def body(image_url: dict[str, str]) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image_url}]}]}


@pytest.mark.parametrize(
    ("given", "detail"),
    [({}, "high"), ({"detail": "auto"}, "high"), ({"detail": "high"}, "high"), ({"detail": "low"}, "low")],
)
def test_low_is_low_and_all_else_is_the_whole(given: dict[str, str], detail: str) -> None:
    (image,) = parse_chat_request(body({"url": "data:,", **given})).chat.images
    assert image.detail == detail


def test_another_detail_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_chat_request(body({"url": "data:,", "detail": "medium"}))
    assert caught.value.param == "messages.0.content.0.image_url.detail"
