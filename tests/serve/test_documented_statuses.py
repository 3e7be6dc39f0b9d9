"""Whatever state the server is in and whoever calls: each operation of both documents answers as they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine

from lavatube.predictions.files import FileLimits, FileStore
from lavatube.predictions.postman import Postman
from lavatube.predictions.server_secrets import Secrets
from lavatube.serve.health import Phase
from lavatube.serve.kept import Kept
from tests.serve.live import MODEL, LiveServer

KEY = "a-key-of-the-operator"
WITH_KEY = {"authorization": f"Bearer {KEY}"}
CALLERS = {
    "the operator": (WITH_KEY, set()),
    "a stranger": ({}, {401}),
    "too talkative": ({**WITH_KEY, **{f"x-{number}": "" for number in range(100)}}, {431}),
}
PAGES = {
    "another server's name": ({"host": "elsewhere.example"}, {403}),
    "another site's page": ({"origin": "https://elsewhere.example"}, set()),
}


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Kept]:
    """What there is of a database whose tables have gone."""
    engine = create_engine(f"sqlite:///{tmp_path / 'broken.db'}")
    yield Kept(Secrets(engine), FileStore(engine, FileLimits()), Postman())
    engine.dispose()


def statuses(server: LiveServer, headers: dict[str, str]) -> set[int]:
    """Of all operations of both documents; each is one that is documented."""
    found = set()
    with server.client() as client:
        for page in ("/openapi.json", "/v1/openapi.json"):
            document = client.get(page, headers=WITH_KEY).json()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    asked = re.sub(r"[{}]", "", path.replace("{owner}/{name}", MODEL))
                    json_type = {"content-type": "application/json"}
                    answer = client.request(method, asked, content=b"{}", headers=json_type | headers)
                    assert str(answer.status_code) in operation["responses"], (method, path, answer.text)
                    found.add(answer.status_code)
    return found


@pytest.mark.parametrize("caller", CALLERS)
def test_whoever_calls(tmp_path: Path, kept: Kept, caller: str) -> None:
    headers, wanted = CALLERS[caller]
    with LiveServer(tmp_path, kept=kept, api_key=KEY) as server:
        assert statuses(server, headers) >= wanted


@pytest.mark.parametrize("page", PAGES)
def test_whatever_page_it_comes_from(tmp_path: Path, kept: Kept, page: str) -> None:
    headers, wanted = PAGES[page]
    with LiveServer(tmp_path, kept=kept) as server:
        assert statuses(server, headers) >= wanted


@pytest.mark.parametrize("phase", [Phase.PROVISIONING, Phase.FAILED, Phase.DRAINING])
def test_whatever_the_server_is_doing(tmp_path: Path, kept: Kept, phase: Phase) -> None:
    with LiveServer(tmp_path, kept=kept, is_ready=False) as server:
        server.view = replace(server.view, phase=phase)
        assert 503 in statuses(server, {})
        for path in ("/predictions/x", "/v1/predictions/x", f"/v1/streams/{'a' * 52}", "/v1/responses/resp_x"):
            assert httpx.get(f"{server.url}{path}").status_code == 503, "what is journaled can't be known yet"


def test_while_the_database_fails(tmp_path: Path, broken: Kept) -> None:
    with LiveServer(tmp_path / "server", kept=broken) as server:
        statuses(server, {})
        for path in ("/v1/files", f"/v1/files/file-{'a' * 26}", "/v1/webhooks/default/secret"):
            answer = httpx.get(f"{server.url}{path}")
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
