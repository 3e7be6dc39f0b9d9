"""The page for people: there without a key, led to from `/` in a browser alone, and closed to all code but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import httpx
import pytest

from tests.serve.live import LiveServer

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("key", ["", "a-key-of-the-operator"])
def test_it_is_shown_to_everybody(tmp_path: Path, key: str) -> None:
    with LiveServer(tmp_path, api_key=key, is_ready=False) as server:
        answer = httpx.get(f"{server.url}/playground")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "</html>" in answer.text


def test_its_policy_lets_its_own_script_run_and_nothing_else(shared_client: httpx.Client) -> None:
    answer = shared_client.get("/playground")
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy


def test_it_loads_nothing_from_elsewhere(shared_client: httpx.Client) -> None:
    assert re.findall(r"(?:https?:)?//[a-z]", shared_client.get("/playground").text) == []


def test_no_page_of_others_reaches_it_by_a_name_of_its_own(shared_client: httpx.Client) -> None:
    assert shared_client.get("/playground", headers={"Host": "evil.example.com"}).status_code == 403


def test_a_browser_is_led_there_from_the_root_and_a_program_is_not(shared_client: httpx.Client) -> None:
    led = shared_client.get("/", headers=BROWSER)
    assert (led.status_code, led.headers["location"], led.headers["vary"]) == (303, "playground", "Accept")
    for accept in ("*/*", "application/json"):
        told = shared_client.get("/", headers={"Accept": accept})
        assert (told.status_code, told.json()["playground_url"]) == (200, "/playground")
