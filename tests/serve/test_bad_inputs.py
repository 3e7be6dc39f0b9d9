"""The catalogue of hostile requests, where it lies beside the repository: each gets its status, its code, no leak."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from lavatube.serve.transport import Connection
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.test_limits import KEY, LEAKS

KIT = Path(__file__).parents[3] / "shared" / "bad_inputs"
GROUPS = ("json_shape", "numbers", "ids", "headers_protocol", "auth")
NOT_HERE = {"scenario", "statistical", "two_keys", "burst", "--big"}

pytestmark = pytest.mark.skipif(not KIT.is_dir(), reason="the catalogue is not beside this checkout")


def catalogue() -> dict:
    return json.loads((KIT / "bad_inputs.json").read_text()) if KIT.is_dir() else {"cases": []}


CATALOGUE = catalogue()
CASES = [c for c in CATALOGUE["cases"] if c["group"] in GROUPS and not NOT_HERE & set(c.get("needs", ()))]


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bad_inputs_render", KIT / "bad_inputs_render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, LiveServer]]:
    """One that is open, one with a key."""
    Connection.head_deadline_s, usual = 0.5, Connection.head_deadline_s
    with (
        LiveServer(tmp_path_factory.mktemp("open")) as open_,
        LiveServer(tmp_path_factory.mktemp("keyed"), api_key=KEY) as keyed,
    ):
        yield open_, keyed
    Connection.head_deadline_s = usual


def context(renderer: ModuleType, folder: Path, port: int) -> dict:
    (folder / "ok.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    values = renderer.Ctx(
        predict="/predictions",
        chat="/v1/chat/completions",
        status="/predictions",
        health="/health",
        key=KEY,
        model="echo",
        self_port=str(port),
        key_minus_last=KEY[:-1],
        wrong_same_length="x" * len(KEY),
        prefix_k=KEY[:3] + "x" * (len(KEY) - 3),
        body_limit=32 << 20,
    )
    values.images, values.manifest = folder, {}
    return values


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(
    servers: tuple[LiveServer, LiveServer], http: httpx.Client, renderer: ModuleType, tmp_path: Path, case: dict
) -> None:
    needs_key = "auth_enabled" in case.get("needs", ())
    server = servers[needs_key]
    rendered = renderer.render(CATALOGUE, case, context(renderer, tmp_path, server.port))
    answer = server.raw(rendered["raw"], half_close=rendered.get("half_close", False))
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d+)", head)
    status = int(found[1]) if found else "closed"
    allowed = allowed_answers(case)
    assert any(status == want and (code is None or code == code_of(body)) for want, code in allowed), (
        status,
        body[:300],
    )
    if isinstance(status, int) and status >= 400:
        assert b"content-type: application/json" in head.lower()
        assert len(body) <= 16 * 1024
        assert case["target"] == "raw" or b"x-request-id: " in head.lower()
    assert LEAKS.search(answer.decode("utf-8", "replace")) is None
    assert KEY.encode() not in answer
    headers = {"authorization": f"Bearer {KEY}"} if needs_key else {}
    control = {"input": {"image": PNG, "prompt": "still there?", "max_tokens": 1}}
    assert http.post(f"{server.url}/predictions", json=control, headers=headers).status_code == 200


def allowed_answers(case: dict) -> list[tuple[int | str, str | None]]:
    expect = case["expect"]
    status = expect["v1_status"] if case["target"] == "chat" else expect["status"]
    return [(status, expect["code"]), *map(tuple, expect.get("also_ok", ()))]


def code_of(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    error = answer.get("error")
    return error["code"] if isinstance(error, dict) else answer.get("code")
