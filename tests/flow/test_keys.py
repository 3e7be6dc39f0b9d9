"""Keys from the command line to a running server: made, used, revoked; and no server for everybody by accident."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.flow.conftest import data_url
from tests.flow.server import Server


def lavatube(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lavatube.cli", *words], capture_output=True, text=True, check=False)


def status(server: Server, key: str) -> int:
    return httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def cached_tokens(server: Server, key: str) -> int:
    """Of a question that is always the same."""
    content = [{"type": "image_url", "image_url": {"url": data_url("shapes.png")}}, {"type": "text", "text": "What?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60).json()
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def until(server: Server, key: str, wanted: int) -> None:
    deadline = time.monotonic() + 20
    while status(server, key) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_key_from_its_making_to_its_end(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    place = ("--cache", str(cache))
    first = lavatube("keys", "add", "phone", "--max-streams", "2", *place)
    assert first.returncode == 0
    key = first.stdout.strip()
    with Server("tiny", cache) as server:
        assert status(server, key) == 200
        assert status(server, "nothing") == 401
        second = lavatube("keys", "add", "laptop", *place).stdout.strip()
        until(server, second, 200)
        server.wait_ready()
        assert (cached_tokens(server, key), cached_tokens(server, key) > 0) == (0, True)
        assert cached_tokens(server, second) == 0, "the caches do not tell what another key has asked"
        assert lavatube("keys", "revoke", "phone", *place).stdout == "revoked phone\n"
        until(server, key, 401)
        assert status(server, second) == 200
        assert key not in server.text
    listed = lavatube("keys", "ls", *place).stdout
    assert "revoked" in listed
    assert "laptop" in listed
    assert second.rpartition("_")[2] not in listed
    assert "already" in lavatube("keys", "add", "laptop", *place).stderr


def test_beyond_this_machine_a_key_is_needed(tmp_path: Path) -> None:
    refused = lavatube("serve", "--host", "0.0.0.0", "--port", "0", "--cache", str(tmp_path / "cache"))
    assert refused.returncode == 2
    assert "without any key" in refused.stderr
    assert "LAVATUBE_API_KEY" in refused.stderr
    with Server("tiny", tmp_path / "cache", "--host", "0.0.0.0", "--insecure") as server:
        server.wait_for_line("anybody who reaches 0.0.0.0 can call")
