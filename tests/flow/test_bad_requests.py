"""What is wrong with a request is said by a real server in the words of each API: status, code, field and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.flow.conftest import data_url
from tests.flow.server import Server

Body = dict[str, Any]
Change = Callable[[Body], object]

BROKEN = "data:image/png;base64,AAAA"
LONG = "long " * 3000


def cog() -> Body:
    return {"input": {"image": data_url("shapes.png"), "prompt": "What?", "max_tokens": 4}}


def openai() -> Body:
    picture = {"type": "image_url", "image_url": {"url": data_url("shapes.png")}}
    content = [picture, {"type": "text", "text": "What?"}]
    return {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}


def content(body: Body) -> list[Body]:
    return body["messages"][0]["content"]  # type: ignore[no-any-return]


COG: dict[str, tuple[Change, int, str, str]] = {
    "missing image": (lambda body: body["input"].pop("image"), 422, "invalid_input", "input.image"),
    "broken image": (lambda body: body["input"].update(image=BROKEN), 422, "invalid_image", "input.image"),
    "unknown field": (lambda body: body["input"].update(imgae="x"), 422, "invalid_input", "input.imgae"),
    "wrong type": (lambda body: body["input"].update(temperature="hot"), 422, "invalid_input", "input.temperature"),
    "out of range": (lambda body: body["input"].update(top_p=2), 422, "invalid_input", "input.top_p"),
    "too long": (lambda body: body["input"].update(prompt=LONG), 422, "prompt_too_long", "input.prompt"),
}
IMAGE_URL = "messages.0.content.0.image_url"
OPENAI: dict[str, tuple[Change, int, str, str]] = {
    "missing image": (lambda body: content(body)[0].pop("image_url"), 400, "invalid_input", IMAGE_URL),
    "broken image": (
        lambda body: content(body)[0]["image_url"].update(url=BROKEN), 400, "invalid_image", IMAGE_URL
    ),
    "unknown field": (lambda body: body.update(max_tokenz=4), 400, "invalid_input", "max_tokenz"),
    "wrong type": (lambda body: body.update(temperature="hot"), 400, "invalid_input", "temperature"),
    "out of range": (lambda body: body.update(top_p=2), 400, "invalid_input", "top_p"),
    "too long": (lambda body: content(body)[1].update(text=LONG), 400, "prompt_too_long", "messages"),
    "unknown model": (lambda body: body.update(model="gpt-9"), 404, "model_not_found", "model"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "status", "code", "param"), COG.values(), ids=COG)
def test_in_cogs_words(tiny: Server, change: Change, status: int, code: str, param: str) -> None:
    body = cog()
    change(body)
    response = httpx.post(f"{tiny.url}/predictions", json=body, timeout=60)
    error, (detail, *_) = response.json()["error"], response.json()["detail"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), response.text
    assert error["message"]
    assert error["remedy"]
    assert error["request_id"] == response.headers["X-Request-Id"]
    assert (detail["code"], detail["loc"]) == (code, ["body", *param.split(".")])
    assert detail["msg"]


@pytest.mark.parametrize(("change", "status", "code", "param"), OPENAI.values(), ids=OPENAI)
def test_in_openais_words(tiny: Server, change: Change, status: int, code: str, param: str) -> None:
    body = openai()
    change(body)
    response = httpx.post(f"{tiny.url}/v1/chat/completions", json=body, timeout=60)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), response.text
    assert error["type"] == "invalid_request_error"
    assert error["message"].count(". ") >= 1, "the fault, then the remedy"


def test_the_unchanged_bodies_are_answered(tiny: Server) -> None:
    assert httpx.post(f"{tiny.url}/predictions", json=cog(), timeout=60).status_code == 200
    assert httpx.post(f"{tiny.url}/v1/chat/completions", json=openai(), timeout=60).status_code == 200
