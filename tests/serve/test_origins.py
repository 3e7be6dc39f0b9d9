"""Web pages that call from a browser: what is allowed is told by CORS, what is not allowed writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from lavatube.errors import InvalidSetting
from lavatube.serve.kept import Kept
from lavatube.serve.origins import Origins
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer

APP, OTHER = "https://app.example.com", "https://other.example.com"
KEY = "a-key-of-the-operator"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory, kept: Kept) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("open"), kept=kept) as server:
        yield server


@pytest.fixture(scope="module")
def app_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("app"), allowed_origins=f"{APP}, http://localhost:3000") as server:
        yield server


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("keyed"), allowed_origins="*", api_key=KEY) as server:
        yield server


def preflight(server: LiveServer, origin: str, method: str = "POST") -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "x-stainless-os",
    }
    return httpx.options(f"{server.url}/v1/chat/completions", headers=asked)


def from_page(server: LiveServer, origin: str, **more: str) -> httpx.Response:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"} | more
    return httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=headers)


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
def test_an_allowed_page_may_ask_and_read(app_server: LiveServer, origin: str) -> None:
    assert preflight(app_server, origin).headers["access-control-allow-origin"] == origin
    answer = from_page(app_server, origin)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


def test_an_allowed_page_reads_errors_too(app_server: LiveServer) -> None:
    answer = httpx.get(f"{app_server.url}/nope", headers={"Origin": APP})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, APP)


def test_the_question_before_a_call_needs_no_key_but_the_call_does(keyed_server: LiveServer) -> None:
    assert preflight(keyed_server, OTHER).status_code == 200
    refused = from_page(keyed_server, OTHER)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    assert from_page(keyed_server, OTHER, Authorization=f"Bearer {KEY}").status_code == 200


@pytest.mark.parametrize("which", ["app_server", "open_server"])
def test_another_page_is_told_nothing_and_writes_nothing(request: pytest.FixtureRequest, which: str) -> None:
    server = request.getfixturevalue(which)
    assert preflight(server, OTHER).status_code in (400, 405)
    answer = from_page(server, OTHER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "allowed_origins" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers


def test_a_form_of_another_page_uploads_nothing(open_server: LiveServer) -> None:
    def upload(**headers: str) -> int:
        content = {"content": ("a.png", PNG, "image/png")}
        return httpx.post(f"{open_server.url}/v1/files", files=content, headers=headers).status_code

    assert upload() == 201
    assert upload(Origin=open_server.url, **{"Sec-Fetch-Site": "same-origin"}) == 201
    assert upload(Origin=OTHER, **{"Sec-Fetch-Site": "cross-site"}) == 403


@pytest.mark.parametrize("text", ["app.example.com", "https://app.example.com/", "https://*.example.com/x", "https://"])
def test_what_is_no_origin_stops_the_start(text: str) -> None:
    with pytest.raises(InvalidSetting, match="allowed_origins"):
        Origins(f"{APP},{text}")
